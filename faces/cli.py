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
    words = ("can't allocate memory", "Cannot allocate memory", "not enough memory", "std::bad_alloc")
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def run(main: Callable[..., Any]) -> None:
    """Call `main` with its command line: positional paths in, paths out.

    `InputError`, an input that is not there, a full or read-only disk and too little memory end with one line on stderr
    and exit status 1.
    """
    import typer

    @functools.wraps(main)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            main(*arguments, **options)
        except InputError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit("interrupted; the same command goes on from here")
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            sys.exit("error: the memory is full; end other programs, or raise the limit that this one runs under")
        except OSError as error:
            if error.errno == errno.ENOENT and error.filename:
                sys.exit(f"error: {error.filename} is not there; `dvc repro` makes it, or `dvc pull` fetches it")
            if error.errno not in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT):
                raise
            where = f": {error.filename}" if error.filename else ""
            sys.exit(f"error: cannot write{where}: {error.strerror}; free the space or the permission and run again")

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(guarded)
    app()
