"""Arrays and checkpoints kept between runs, outside DVC's outputs: losing them costs time, never a result.

They lie where the environment variable FACES_CACHE points, else in `.cache` of the project: DVC runs a queued
experiment in a temporary copy, and names the project itself in DVC_ROOT. Each is named by a hash of everything that
determines its content. Arrays are files mapped into memory, so their size is bounded by the disk; when together
they exceed FACES_CACHE_GB (default 10), those that have not been used for longest go first.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from faces.files import file_sha256

ORPHANED_AFTER = 24 * 3600  # seconds after which an array that a killed run left half-filled is removed


def folder(name: str) -> Path:
    """Return a folder of the cache, making it if need be."""
    path = root() / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def root() -> Path:
    """Return the cache's own folder, which need not be there yet."""
    return Path(os.environ.get("FACES_CACHE") or Path(os.environ.get("DVC_ROOT", ".")) / ".cache")


def code(*modules: ModuleType) -> list[str]:
    """Return the SHA-256 of each module's source."""
    return [file_sha256(Path(str(module.__file__))) for module in modules]


def fingerprint(**facts: Any) -> str:
    """Return a SHA-256 over named facts (anything JSON can hold)."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def array(key: str, shape: tuple[int, ...], dtype: torch.dtype, fill: Callable[[Tensor], None]) -> Tensor:
    """Return the array of this key, mapped from the cache; `fill` computes it in place if it is not there.

    Errors: OSError (ENOSPC), naming the file, before anything is computed if the disk cannot hold it.
    """
    path = folder("arrays") / f"{key}.bin"
    n = torch.Size(shape).numel()
    if not n:
        return torch.empty(shape, dtype=dtype)  # an empty file cannot be mapped
    size = n * torch.empty((), dtype=dtype).element_size()
    if not (path.exists() and path.stat().st_size == size):
        _make_room(path.parent, size)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{key[:16]}.")
        try:
            _reserve(handle, size, path)
            fill(torch.from_file(name, shared=True, size=n, dtype=dtype).view(shape))
            os.fsync(handle)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
    with contextlib.suppress(OSError):
        os.utime(path)
    return torch.from_file(str(path), shared=False, size=n, dtype=dtype).view(shape)


def _reserve(handle: int, size: int, path: Path) -> None:
    try:
        os.posix_fallocate(handle, 0, size) if hasattr(os, "posix_fallocate") else os.truncate(handle, size)
    except OSError as error:  # it knows the handle only
        raise OSError(error.errno, error.strerror, str(path)) from None


def _make_room(arrays: Path, size: int) -> None:
    limit = float(os.environ.get("FACES_CACHE_GB", "10")) * 1e9
    found: list[tuple[float, int, Path]] = []
    for path in arrays.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process that shares the cache was quicker
            facts = path.stat()
            if path.suffix == ".bin":
                found.append((facts.st_mtime, facts.st_size, path))
            elif time.time() - facts.st_mtime > ORPHANED_AFTER:
                path.unlink()
    used = float(size)
    for _, length, path in sorted(found, reverse=True):
        used += length
        if used > limit:
            path.unlink(missing_ok=True)
