"""Whole files: their hashes, and writing them all or not at all."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faces.cli import InputError, PathRole


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
    if path.exists() and not path.is_file():
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
