"""What every command shares: arguments from a signature, and one clear line for what the user can mend."""

import errno
import functools
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints


class InputError(Exception):
    """Something the user can mend; the message is one line: what, where, what to do."""


def out_of_memory(error: BaseException) -> bool:
    """Say whether an exception means that memory ran out: Python's own, the system's, or torch's on any device."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    words = ("can't allocate memory", "Cannot allocate memory", "not enough memory", "std::bad_alloc", "failed to map")
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError | ImportError) and any(word in str(error) for word in words)
    )


def printable(text: str) -> str:
    """Return the text with "?" for what a terminal would not show, or would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


def in_a_line(error: BaseException) -> str | None:
    """Return what to tell the user of a fault that the user can mend; None of any other."""
    if isinstance(error, InputError):
        return str(error)
    if out_of_memory(error):
        return "the memory is full; end other programs, or raise the limit that this one runs under"
    if not isinstance(error, OSError):
        return None
    where = f": {error.filename}" if error.filename else ""
    match error.errno:
        case errno.ENOENT if where:
            return f"{error.filename} is not there; `dvc repro` makes it, or `dvc pull` fetches it"
        case errno.ENOSPC | errno.EROFS | errno.EDQUOT:
            return f"cannot write{where}: {error.strerror}; free the space or the permission and run again"
        case (
            errno.EACCES | errno.EPERM | errno.EEXIST | errno.EISDIR | errno.ENOTDIR | errno.ENAMETOOLONG | errno.ELOOP
        ):
            return f"cannot open{where}: {error.strerror}"
    return None


@dataclass(frozen=True)
class PathRole:
    """What a command does with a path that it is given, so that the path is checked before the work.

    It stands in the signature: `Annotated[Path, PathRole(...)]`, or one of the names below. read: it must be there.
    written: it, or files in it, may be written; its folders are made. through: a device is written into. word: may be
    given in the path's place. remedy: what to do if it is not there.
    """

    kind: Literal["file", "folder", "link"]
    read: bool = False
    written: bool = False
    through: bool = False
    word: str | None = None
    remedy: str = "`dvc repro` makes it, or `dvc pull` fetches it"

    def check(self, path: Path) -> None:
        """Raise an InputError unless the command can do with the path what it must."""
        if str(path) == self.word:
            return
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise InputError(f"the name {str(path)!a} is not valid UTF-8; rename it") from None
        try:
            if not (self.kind == "link" and path.is_symlink()):  # which may lead anywhere
                self._check(path)
        except OSError as error:
            what = "written" if self.written else "read"
            raise InputError(f"{path} cannot be {what}: {error.strerror}") from None

    def _check(self, path: Path) -> None:
        if path.exists():
            self._check_kind(path)
            _require(path, os.R_OK * self.read | os.W_OK * self.written | os.X_OK * (self.kind == "folder"))
            place = path
        elif self.read:
            raise InputError(f"{path} is not there; {self.remedy}")
        elif self.written:
            place = _nearest_folder(path)
            _require(place, os.W_OK | os.X_OK)
        else:
            return
        if self.written and not _is_device(path) and not shutil.disk_usage(place).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _check_kind(self, path: Path) -> None:
        if self.kind == "folder":
            if not path.is_dir():
                raise InputError(f"{path} is not a folder; name a folder")
        elif path.is_dir():
            raise InputError(f"{path} is a folder; name a file in it")
        elif not path.is_file():
            if not self.through:
                raise InputError(f"{path} is a device, pipe or socket; name a file")
            if _is_device(path):
                with path.open("wb", buffering=0) as device:
                    device.write(b"")  # /dev/full takes not even that


InFile = Annotated[Path, PathRole("file", read=True)]
InFolder = Annotated[Path, PathRole("folder", read=True)]
OutFile = Annotated[Path, PathRole("file", written=True)]
OutFolder = Annotated[Path, PathRole("folder", written=True)]
OutFileOrDevice = Annotated[Path, PathRole("file", written=True, through=True)]
ChangedFile = Annotated[Path, PathRole("file", read=True, written=True)]
ChangedFolder = Annotated[Path, PathRole("folder", read=True, written=True)]


def path_roles(main: Callable[..., Any]) -> dict[str, PathRole]:
    """Return the role of each path among a command's parameters, by the parameter's name."""
    hints = get_type_hints(main, include_extras=True)
    return {name: role for name, hint in hints.items() for role in _metadata(hint) if isinstance(role, PathRole)}


def _metadata(hint: Any) -> Iterator[Any]:
    if get_origin(hint) is Annotated:
        yield from hint.__metadata__
    for part in get_args(hint):
        yield from _metadata(part)


def _is_device(path: Path) -> bool:
    return path.exists() and stat.S_ISCHR(path.stat().st_mode)


def _nearest_folder(path: Path) -> Path:
    """Return the folder that is there and in which a path would be made; of a link that leads nowhere, its target."""
    try:
        parent = next(parent for parent in path.resolve().parents if parent.exists())
    except RuntimeError:
        raise InputError(f"{path} is a link that leads in a circle") from None
    if not parent.is_dir():
        raise InputError(f"{path} cannot be written: {parent} is not a folder")
    return parent


def _require(path: Path, mode: int) -> None:
    if not os.access(path, mode):
        raise InputError(f"{path} cannot be {'written' if mode & os.W_OK else 'read'}: permission denied")


def execute(*command: str, cwd: Path | None = None) -> str:
    """Return what a program prints; an `InputError` with its own words, in one line, if it is missing or fails."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise InputError(f"{command[0]} is needed, and is not installed") from None
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        reason = next((line for line in lines if line.lower().startswith(("fatal", "error"))), lines[-1])
        raise InputError(f"{' '.join(command)} failed: {reason}")
    return done.stdout


def run(main: Callable[..., Any]) -> None:
    """Call `main` with its command line: positional paths in, paths out, each checked by its PathRole before that.

    A fault that the user can mend (`in_a_line`) ends with one line on stderr and exit status 1.
    """
    import typer

    roles = path_roles(main)

    @functools.wraps(main)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            for name, role in roles.items():  # typer gives all parameters by their names
                if options[name] is not None:
                    role.check(options[name])
            main(*arguments, **options)
        except KeyboardInterrupt:
            sys.exit("interrupted; the same command goes on from here")
        except Exception as error:
            line = in_a_line(error)
            if line is None:
                raise
            sys.exit(f"error: {printable(line)}")

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(guarded)
    app()
