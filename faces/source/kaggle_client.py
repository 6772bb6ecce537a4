"""The process in which Kaggle's own client runs: `python -m faces.source.kaggle_client OWNER/SLUG[/VERSION] FOLDER`.

Each line on stdin, `import`, `download` or `metadata`, is one attempt; each line on stdout is its outcome as
JSON: {}, or what went wrong, in words of this file and never the client's, which hold signed addresses. All
that the client prints goes nowhere (with VERBOSE set, it prints credentials). When stdin ends, the parent is
gone, and so is this process at once, whatever it is doing.
"""

import contextlib
import errno
import functools
import json
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
CHUNK = 1 << 16  # bytes; what a drop loses at most


def serve(dataset: str, folder: str) -> None:
    """Answer the requests on stdin until it ends."""
    incoming = os.fdopen(os.dup(0), encoding="utf-8")  # sys.stdin is closed by the exit() in the client's import
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(incoming, requests), daemon=True).start()
    while True:
        answers.write(json.dumps(attempt(requests.get(), dataset, folder)) + "\n")
        answers.flush()


def _listen(incoming: TextIO, requests: queue.Queue[str]) -> None:
    for line in incoming:
        requests.put(line.strip())
    os._exit(0)


def attempt(request: str, dataset: str, folder: str) -> dict[str, Any]:
    """Import the client, or let it download the archive or the metadata to `folder`; return {} or the fault."""
    try:
        import kaggle  # with a token set, this asks Kaggle whose it is

        if request == "download":
            api = kaggle.api
            # The client's own retries write whatever answers them; its chunks of 1 MiB hide a slow line's progress.
            api.download_file = functools.partial(_one_attempt, type(api).download_file, api)
            api.dataset_download_files(dataset, path=folder, quiet=True, unzip=False)
        elif request == "metadata":
            kaggle.api.dataset_metadata("/".join(dataset.split("/")[:2]), path=folder)
    except (Exception, SystemExit) as error:  # some versions of the client exit where others raise
        return fault(error)
    return {}


class UntrustedError(Exception):
    """What arrived is not of the size announced: something else came in the data's place."""


def _one_attempt(download_file: Callable[..., None], *arguments: Any, **options: Any) -> None:
    try:
        download_file(*arguments, **{**options, "max_retries": 0, "chunk_size": CHUNK})
    except ValueError as error:
        raise UntrustedError from error


def fault(error: BaseException) -> dict[str, Any]:
    """Return what the parent needs to know of an error: the fields of `faces.source.kaggle_dataset.Fault`."""
    import requests

    if isinstance(error, requests.exceptions.InvalidHeader):
        return {"reason": "it holds letters that no token has", "final": True, "credential": True}
    if isinstance(error, requests.RequestException):
        if error.response is not None:
            return _http_fault(error.response)
        if isinstance(error, requests.exceptions.SSLError):
            return {
                "reason": "its TLS certificate is not trusted here (behind a proxy, see REQUESTS_CA_BUNDLE)",
                "final": True,
            }
        return {"reason": _connection_fault(error)}
    if isinstance(error, OSError) and error.errno in DISK:
        where = f" {error.filename}" if error.filename else ""
        return {"reason": f"cannot write{where}: {os.strerror(error.errno)}", "final": True}
    if isinstance(error, ImportError):
        return {"reason": "the kaggle package cannot be imported; install the pinned requirements", "final": True}
    if isinstance(error, UntrustedError):
        return {"reason": "what arrived is not of the archive's size; it is discarded", "untrusted": True}
    if isinstance(error, UnicodeError):  # from the file of a credential, or the header that it goes into
        return {"reason": "it is not UTF-8 text", "final": True, "credential": True}
    return {"reason": f"its client failed ({type(error).__name__})"}


def _http_fault(response: Any) -> dict[str, Any]:
    """Return the status, also where an error comes as JSON with the status 200, and the wait it asks for."""
    status = response.status_code
    if status < 400:
        try:
            status = int(response.json()["code"])
        except (ValueError, KeyError, TypeError):
            return {"reason": "an error in place of the data"}
    outcome = {"reason": f"HTTP {status}", "status": status}
    with contextlib.suppress(KeyError, ValueError):  # none, or a date: then the usual wait
        outcome["retry_after"] = max(0.0, float(response.headers["Retry-After"]))
    return outcome


def _connection_fault(error: BaseException) -> str:
    """Return the innermost cause in a few words."""
    seen: list[BaseException] = []
    pending: list[Any] = [error]
    while pending:
        cause = pending.pop()
        if isinstance(cause, BaseException) and cause not in seen:
            seen.append(cause)
            pending += [*cause.args, cause.__cause__, cause.__context__, getattr(cause, "reason", None)]
    for kind, words in (
        (socket.gaierror, "its address could not be resolved; is there a network?"),
        (ConnectionRefusedError, "the connection was refused"),
        (TimeoutError, "the connection timed out"),
    ):
        if any(isinstance(cause, kind) for cause in seen):
            return words
    return f"the connection broke ({type(error).__name__})"


if __name__ == "__main__":
    serve(*sys.argv[1:])
