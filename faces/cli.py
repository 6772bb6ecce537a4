"""What every command shares: arguments from a signature, and one clear line for what the user can mend."""

import errno
import functools
import sys
from collections.abc import Callable
from typing import Any


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
        case errno.EACCES | errno.EISDIR | errno.ENOTDIR | errno.ENAMETOOLONG | errno.ELOOP:
            return f"cannot open{where}: {error.strerror}"
    return None


def run(main: Callable[..., Any]) -> None:
    """Call `main` with its command line: positional paths in, paths out.

    A fault that the user can mend (`in_a_line`) ends with one line on stderr and exit status 1.
    """
    import typer

    @functools.wraps(main)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            main(*arguments, **options)
        except KeyboardInterrupt:
            sys.exit("interrupted; the same command goes on from here")
        except Exception as error:
            line = in_a_line(error)
            if line is None:
                raise
            sys.exit(f"error: {line}")

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(guarded)
    app()
