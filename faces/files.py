"""Whole files: their hashes, and writing them all or not at all."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faces.cli import InputError


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_output(path: Path, made_here: Callable[[Path], bool]) -> None:
    """Raise an InputError unless a command may write its output there; to be called before the work.

    A link or a device may be written through. A file that is there may be replaced if it is empty, or if `made_here`
    says that an earlier run of the same command has written it.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file in it")
        if path.exists():
            if not os.access(path, os.W_OK):
                raise InputError(f"{path} cannot be written: permission denied")
            if path.is_file() and path.stat().st_size and not made_here(path):
                raise InputError(f"{path} is there, and is not an earlier output of this command; name another file")
            return
        target = path.resolve()  # of a link that leads nowhere yet
        parent = next(folder for folder in target.parents if folder.exists())
        if not parent.is_dir():
            raise InputError(f"{path} cannot be written: {parent} is not a folder")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(f"{path} cannot be written: permission denied in {parent}")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None


def write_through(path: Path, content: bytes) -> None:
    """Write a file atomically; where `path` is a link, its target; where it is a device, into it."""
    target = path.resolve()
    if target.exists() and not target.is_file():
        target.write_bytes(content)
    else:
        write_atomically(target, content)


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a kill or a full disk leaves the old file or the new one, never a part."""
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
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
