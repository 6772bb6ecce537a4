"""A dataset on Kaggle: what is kept of it here, and the download of its archive by Kaggle's own client.

The client (2.2.4) can hang for ever in its first request, puts signed addresses into its errors, and on a failed
retry writes the error's body into the archive. It therefore runs in a process of its own, kaggle_client.py,
that is ended when it stalls; patience, progress and words for the user are this side's.

python -m faces.source.kaggle_dataset kaggle.zip   puts an archive where the download stage looks first
"""

import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated

import typer
from tqdm import tqdm

from faces.cli import InputError, PathRole, run
from faces.params import Data, load_params
from faces.source import kaggle_client, manifest
from faces.source.archive import Archive, Limits

KEPT = Path("downloads/kaggle")  # outside the stage's output, which DVC deletes before each run
METADATA = "dataset-metadata.json"  # the client's name for it
ATTEMPTS = 5  # in a row without one new byte
IMPORT = 60.0  # seconds at least for the client's import, which may ask Kaggle about a token
LONGEST_WAIT = 120.0  # seconds; a server that asks for more is not waited for
REMEDY = "give the ZIP archive of the dataset (data.dataset in params.yaml), as its page on Kaggle gives it"
ELSEWHERE = "or fetch the archive another way and run: make repro ARCHIVE=kaggle.zip"
TOKEN = (
    "get a token at https://www.kaggle.com/settings (API, Generate New Token) and save it as "
    f"~/.kaggle/access_token or set KAGGLE_API_TOKEN, {ELSEWHERE}"
)


def main(
    archive: Annotated[
        Path, PathRole("file", read=True, remedy=REMEDY), typer.Argument(help="the ZIP archive, as Kaggle gives it")
    ],
) -> None:
    """Put ARCHIVE where the download stage looks for data.dataset before it asks Kaggle; checked first.

    Example: python -m faces.source.kaggle_dataset ~/Downloads/archive.zip
    """
    data = load_params().data
    dataset = Dataset(data.dataset)
    with Archive(archive, Limits(files=data.max_files, bytes=data.max_bytes, ratio=data.max_ratio)) as source:
        images = manifest.arrange(source.listing, str(archive)).images
        digests = {name: hash_of(source.read(path)) for path, name in images.items()}
        check_pin(archive, manifest.pin(digests), data)
    if not (dataset.archive.exists() and archive.samefile(dataset.archive)):
        dataset.folder.mkdir(parents=True, exist_ok=True)
        incoming = dataset.archive.with_name(f".{dataset.archive.name}.incoming")
        shutil.copyfile(archive, incoming)
        incoming.replace(dataset.archive)
    print(f"{archive} is now {dataset.archive}")


def hash_of(chunks: Iterable[bytes]) -> str:
    """Return the SHA-256 of bytes that come in chunks, as hexadecimal digits."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def check_pin(archive: Path, content: str, data: Data) -> None:
    """Refuse an archive whose images are not the pinned ones."""
    if content != data.sha256:
        raise InputError(
            f"{archive}: its images are not the pinned ones: expected {data.sha256} (data.sha256 in params.yaml), "
            f"got {content}. Name the version you mean (data.dataset: owner/slug/version), or give its archive "
            f"(make repro ARCHIVE=...), or, if this content is what you want, set data.sha256 to it"
        )


class Dataset:
    """A dataset by its name, `owner/slug` or `owner/slug/version`, and the files kept of it.

    `archive` was verified, or put there by the user. `arrived` is the client's download: in part while the
    client's `marker` stands beside it, and verified by nobody yet.
    """

    def __init__(self, name: str, kept: Path = KEPT) -> None:
        owner, slug, *version = name.split("/")
        self.name = name
        self.page = f"https://www.kaggle.com/datasets/{owner}/{slug}"
        if version:
            self.page += f"/versions/{version[0]}"
        self.folder = kept / owner / slug / (version[0] if version else "latest")
        self.archive = self.folder / f"{slug}.zip"
        self.arrived = self.folder / "arriving" / f"{slug}.zip"
        self.marker = self.arrived.with_name(f"{slug}.zip.kaggle-partial")

    @property
    def licence(self) -> str | None:
        """The licences as Kaggle names them; None if it was not asked or did not say."""
        for folder in (self.arrived.parent, self.folder):
            try:
                metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
                names = ", ".join(licence["name"] for licence in metadata.get("info", metadata)["licenses"])
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            if names.strip():
                return "".join(character for character in names if character.isprintable())[:200]
        return None

    @property
    def size(self) -> int | None:
        """The whole archive's bytes while it arrives, as the client noted them; else None."""
        try:
            size = json.loads(self.marker.read_text(encoding="utf-8"))["size"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return size if isinstance(size, int) else None

    @property
    def received(self) -> int:
        """Bytes that have arrived."""
        try:
            return self.arrived.stat().st_size
        except FileNotFoundError:
            return 0

    def keep(self) -> None:
        """Make what arrived the kept archive."""
        with suppress(FileNotFoundError):
            self.arrived.with_name(METADATA).replace(self.folder / METADATA)
        self.arrived.replace(self.archive)
        self.discard()

    def discard(self) -> None:
        """Delete what arrived, so that nothing is ever appended to it."""
        shutil.rmtree(self.arrived.parent, ignore_errors=True)


@dataclass(frozen=True)
class Fault:
    """Why an attempt failed, in a few words without a secret; the HTTP status and the wait asked for, if any.

    `final`: no later attempt can go better. `untrusted`: what arrived may hold the body of an error.
    `credential`: the client could not use the one it found.
    """

    reason: str
    status: int | None = None
    retry_after: float = 0.0
    final: bool = False
    untrusted: bool = False
    credential: bool = False


def download(dataset: Dataset) -> None:
    """Bring the archive to `dataset.arrived`, going on from what an earlier run left there.

    Its content is the caller's to verify. `InputError` if Kaggle refuses, if the disk is full, and after
    ATTEMPTS in a row without progress. For slow proxies and for tests, the environment sets the seconds without
    a byte that end an attempt, DOWNLOAD_STALL_SECONDS, and those before the second attempt (then doubled),
    DOWNLOAD_BACKOFF_SECONDS.
    """
    stall, backoff = _seconds("DOWNLOAD_STALL_SECONDS", 60), _seconds("DOWNLOAD_BACKOFF_SECONDS", 2)
    if dataset.received and not dataset.marker.exists():
        return  # whole: an earlier run ended before it was verified
    failures, most = 0, dataset.received
    if most:
        print(f"resuming from {most:,} bytes", flush=True)
    with Client(dataset, stall) as client:
        while fault := client.ask("download"):
            failures = 1 if dataset.received > most else failures + 1
            most = max(most, dataset.received)
            if fault.untrusted:
                dataset.discard()
            wait = max(backoff * 2 ** (failures - 1), fault.retry_after)
            _check_hope(dataset, fault, failures)
            print(f"retrying in {wait:.3g} s, {dataset.received:,} bytes so far: {fault.reason}", flush=True)
            time.sleep(wait)
        print(f"received {dataset.received:,} bytes", flush=True)
        silence = client.ask("metadata")
    why = f" ({silence.reason})" if silence else ""
    print(f"licence  {dataset.licence or f'Kaggle did not say{why}; see the page'}", flush=True)


def _seconds(name: str, default: float) -> float:
    value = os.environ.get(name) or str(default)
    try:
        return float(value)
    except ValueError:
        raise InputError(f"the environment's {name} is {value!r}; it must be a number of seconds") from None


def _check_hope(dataset: Dataset, fault: Fault, failures: int) -> None:
    """Raise the `InputError` of a fault that no further attempt mends."""
    if fault.credential and (where := credential()):
        raise InputError(
            f"the credential in {where} cannot be read ({fault.reason}); it must be plain UTF-8 text, where PowerShell "
            f"writes UTF-16: save it again, or delete it if the set is public, or {TOKEN}"
        )
    if fault.status in (401, 403):
        where = credential()
        sent = f"the credential in {where}" if where else "a request without credentials"
        raise InputError(f"Kaggle refused {sent} for {dataset.page} ({fault.reason}); {TOKEN}")
    if fault.status == 404:
        raise InputError(
            f"Kaggle shows no dataset {dataset.name} ({fault.reason}); correct data.dataset in params.yaml, "
            f"or if the dataset is private, {TOKEN}"
        )
    if fault.final or (fault.status and fault.status < 500 and fault.status not in (408, 429)):
        raise InputError(f"Kaggle's download of {dataset.name}: {fault.reason}; mend that, {ELSEWHERE}")
    if failures >= ATTEMPTS or fault.retry_after > LONGEST_WAIT:
        asked = f", and it asks to wait {fault.retry_after:.0f} s" if fault.retry_after else ""
        raise InputError(
            f"Kaggle's download of {dataset.name} failed {failures} times without progress: {fault.reason}{asked}; "
            f"{dataset.received:,} bytes are kept, and the same command goes on from there later, {ELSEWHERE}"
        )


def credential() -> str | None:
    """Return where the client finds its credential, in its own order; None if it has none. Never its value."""
    home = Path.home() / ".kaggle"
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "kaggle")
    keys = [Path(os.environ.get("KAGGLE_CONFIG_DIR") or home), home, config]
    if os.environ.get("KAGGLE_API_TOKEN"):
        return "KAGGLE_API_TOKEN"
    for file in (home / "access_token", home / "access_token.txt"):
        if file.exists():
            return str(file)
    if os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY"):
        return "KAGGLE_USERNAME and KAGGLE_KEY"
    for file in (*(folder / "kaggle.json" for folder in keys), home / "credentials.json"):
        if file.exists():
            return str(file)
    return None


class Client:
    """This side of the client's process: one request at a time goes in, its fault comes out."""

    def __init__(self, dataset: Dataset, stall: float) -> None:
        self.dataset = dataset
        self.stall = stall
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def ask(self, request: str) -> Fault | None:
        """Make one attempt at `download` or `metadata`; return its fault, None if it succeeded.

        When no byte arrives for `stall` seconds, the process is ended; the next request starts another.
        """
        if self._process is None:
            self._process = self._start()
            if fault := self._request("import", max(self.stall, IMPORT)):
                return fault
        return self._request(request, self.stall)

    def _request(self, request: str, stall: float) -> Fault | None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        self.dataset.arrived.parent.mkdir(parents=True, exist_ok=True)
        with suppress(BrokenPipeError):  # it has ended: then so have its answers
            process.stdin.write(request + "\n")
            process.stdin.flush()
        received, since = self.dataset.received, time.monotonic()
        with progress(self.dataset) as show:
            while (answer := self._answer()) is None:
                show()
                check_room(self.dataset)
                if self.dataset.received != received:
                    received, since = self.dataset.received, time.monotonic()
                elif time.monotonic() - since > stall:
                    self.stop()
                    return Fault(f"nothing arrived for {stall:g} s")
            show()
        if not answer:
            self.stop()
            return Fault("its client ended unexpectedly")
        outcome = json.loads(answer)
        return Fault(**outcome) if outcome else None

    def _start(self) -> subprocess.Popen[str]:
        folder = self.dataset.arrived.parent.resolve()
        process = subprocess.Popen(
            [sys.executable, "-m", kaggle_client.__name__, self.dataset.name, str(folder)],
            cwd=Path(__file__).resolve().parents[2],  # where the module is found
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answers = queue.Queue()
        threading.Thread(target=_collect, args=(process, self._answers), daemon=True).start()
        return process

    def _answer(self) -> str | None:
        """Return the next answer, "" if the process has ended, None if there is none for a moment."""
        try:
            return self._answers.get(timeout=0.1)
        except queue.Empty:
            return None

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        if self._process:
            self._process.kill()
            self._process.wait()
            with suppress(BrokenPipeError):
                self._process.stdin.close()  # type: ignore[union-attr]
            self._process = None


def _collect(process: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
    assert process.stdout
    with process.stdout:
        for line in process.stdout:
            answers.put(line)
    answers.put("")


def check_room(dataset: Dataset) -> None:
    """Raise `InputError` if the rest of the archive does not fit on the disk."""
    if (size := dataset.size) is not None:
        need, free = size - dataset.received, shutil.disk_usage(dataset.folder).free
        if need > free:
            raise InputError(
                f"{dataset.folder}: {need:,} bytes to download and {free:,} free; make room, the same command goes on"
            )


@contextmanager
def progress(dataset: Dataset) -> Iterator[Callable[[], None]]:
    """Give a function that shows how much has arrived: a bar on a terminal, elsewhere a line for each tenth."""
    tenths = 0
    with tqdm(unit="B", unit_scale=True, unit_divisor=1024, disable=not sys.stderr.isatty(), leave=False) as bar:

        def show() -> None:
            nonlocal tenths
            if not (size := dataset.size):
                return
            received = dataset.received
            bar.total, bar.n = size, received
            bar.refresh()
            if bar.disable and received * 10 // size > tenths:
                tenths = received * 10 // size
                print(f"received {received:,} of {size:,} bytes", flush=True)

        yield show


if __name__ == "__main__":
    run(main)
