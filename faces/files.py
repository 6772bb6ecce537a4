"""Whole files: their hashes, and writing them all or not at all."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faces.cli import InputError, PathRole

LIST = "SHA256SUMS"  # in a folder that `replaced` has filled: its files, for `sha256sum --check`


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_output(path: Path, made_here: Callable[[Path], bool]) -> None:
    """Raise an InputError or OSError unless a command may write its output there; to be called before the work.

    A link or a device may be written through. A file that is there may be replaced if it is empty, or if `made_here`
    says that an earlier run of the same command has written it.
    """
    PathRole("file", written=True, through=True).check(path)
    if path.is_file() and path.stat().st_size and not made_here(path):
        raise InputError(f"{path} is there, and is not an earlier output of this command; name another file")


def begins_with(start: bytes) -> Callable[[Path], bool]:
    """Return what says of a file whether it begins so, as all outputs of some command do."""

    def begins(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(len(start)) == start

    return begins


def write_through(path: Path, content: bytes) -> None:
    """Write a file atomically; where `path` is a link, its target; where it is a device, into it."""
    target = path.resolve()
    if target.exists() and not target.is_file():
        target.write_bytes(content)
    else:
        write_atomically(target, content)


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a kill or a full disk leaves the old file or the new one, never a part.

    What is no file is not replaced: InputError.
    """
    if path.exists() and not (path.is_file() or path.is_symlink()):  # a link is replaced, wherever it leads
        raise InputError(f"{path} is a {'folder' if path.is_dir() else 'device, pipe or socket'}; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Give an empty folder; then put what was written there into `folder`, in the place of what it held from before.

    For an output that is a folder with files of changing names: in dvc.yaml it has `persist: true`, for DVC would
    delete whatever is in it. What the folder holds from before is what its SHA256SUMS lists. Errors: InputError for
    any other file (hidden ones stay where they are), with nothing changed.
    """
    before = _listed(folder)
    if before:
        _check_own(folder, before, set())
    new = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        made = {f"{file_sha256(path)}  {name}" for name, path in _visible(new)}
        names = {name for name, _ in _visible(new)}
        _check_own(folder, before | made, set() if before else names)
        folder.mkdir(exist_ok=True)
        _write_list(folder, before | made)  # a kill leaves nothing that the next run takes for the user's
        for name, path in _visible(folder):
            if name not in names:
                path.unlink()
        for name, path in _visible(new):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            path.replace(folder / name)
        for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
            if not any(path.iterdir()):
                path.rmdir()
        _write_list(folder, made)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _visible(folder: Path) -> list[tuple[str, Path]]:
    """Return the name in the folder, and the path, of each file below it, the list of them and hidden ones aside."""
    found = ((path.relative_to(folder), path) for path in sorted(folder.rglob("*")) if not path.is_dir())
    return [
        (name.as_posix(), path)
        for name, path in found
        if name.as_posix() != LIST and not any(part.startswith(".") for part in name.parts)
    ]


def _check_own(folder: Path, lines: Container[str], names: Container[str]) -> None:
    for name, path in _visible(folder):
        if name not in names and not (path.is_file() and f"{file_sha256(path)}  {name}" in lines):
            raise InputError(
                f"{path} was not made by the pipeline, which is about to replace what is in {folder}; "
                "move it out, or delete it"
            )


def _listed(folder: Path) -> set[str]:
    return set((folder / LIST).read_text(encoding="utf-8").splitlines()) if (folder / LIST).is_file() else set()


def _write_list(folder: Path, lines: set[str]) -> None:
    text = "".join(f"{line}\n" for line in sorted(lines, key=lambda line: (line.partition("  ")[2], line)))
    write_atomically(folder / LIST, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file; ValueError for what JSON cannot hold (NaN, infinities)."""
    write_atomically(path, as_json(value))


def as_json(value: Any) -> bytes:
    """Return a value as the text of a JSON file; ValueError for what JSON cannot hold (NaN, infinities)."""
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
