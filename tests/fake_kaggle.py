"""A loopback imitation of the parts of Kaggle that a download needs, with faults to order.

It plays the HTTP proxy through which the unmodified client, told that Kaggle is http://localhost, reaches both
Kaggle and the object store; so requests arrive with their whole address, and both hosts can be told apart.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SIGNATURE = "X-Goog-Signature=5ec2e7516e"  # what must never be printed
STORE = "storage.example"
Fault = Callable[["Handler"], bool]  # answers the request itself, or returns True: answer as usual


@dataclass
class Request:
    """One request as it arrived: `endpoint` is download, metadata, token or object."""

    endpoint: str
    headers: dict[str, str]
    body: dict[str, object]


@dataclass
class FakeKaggle:
    """The server's state: what it holds, the faults that the next requests meet, and what it was asked."""

    archive: bytes = b""
    licences: tuple[str, ...] = ("CC0-1.0",)
    etag: str = ""
    honours_range: bool = True
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    sent: int = 0  # bytes of the archive
    port: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    def environment(self) -> dict[str, str]:
        """Return the variables that point the client here."""
        return {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "HTTP_PROXY": f"http://127.0.0.1:{self.port}"}

    def asked(self, endpoint: str) -> list[Request]:
        """Return the requests to an endpoint, oldest first."""
        return [request for request in self.requests if request.endpoint == endpoint]


class Handler(BaseHTTPRequestHandler):
    """Answers one request of the client."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_POST(self) -> None:
        """Play Kaggle's API."""
        kaggle = self.server.kaggle
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        method = urlsplit(self.path).path.rsplit("/", 1)[-1]
        endpoint = {"DownloadDataset": "download", "GetDatasetMetadata": "metadata", "IntrospectToken": "token"}[method]
        if not self._meet_faults(endpoint, body):
            return
        if endpoint == "download":
            location = f"http://{STORE}/archive.zip?X-Goog-Credential=someone&{SIGNATURE}"
            self.answer(302, b"", {"Location": location})
        elif endpoint == "metadata":
            licences = [{"name": name} for name in kaggle.licences]
            self.answer_json(200, {"info": {"datasetSlug": body["datasetSlug"], "licenses": licences}})
        else:
            self.answer_json(200, {"active": True, "username": "someone"})

    def do_GET(self) -> None:
        """Play the object store."""
        if urlsplit(self.path).hostname != STORE or SIGNATURE not in self.path:
            self.answer(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        elif self._meet_faults("object", {}):
            self.send_archive()

    def send_archive(self, stop_after: int | None = None, chunk: int = 1 << 16, pause: float = 0) -> None:
        """Send the archive, or the range asked for: at most `stop_after` bytes of it, a chunk each `pause` seconds."""
        kaggle = self.server.kaggle
        etag = kaggle.etag or f'"{hashlib.md5(kaggle.archive).hexdigest()}"'
        first = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and kaggle.honours_range and self.headers.get("If-Range", etag) == etag:
            first = int(asked[1])
        data = kaggle.archive[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", etag)
        self.send_header("Last-Modified", "Sun, 13 Apr 2025 09:40:00 GMT")
        self.send_header("Accept-Ranges", "bytes")
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(kaggle.archive) - 1}/{len(kaggle.archive)}")
        self.end_headers()
        for start in range(0, len(data[:stop_after]), chunk):
            part = data[:stop_after][start : start + chunk]
            self.wfile.write(part)
            kaggle.sent += len(part)
            if kaggle.closing.wait(pause) if pause else False:
                break
        self.close_connection = True

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def answer_json(self, status: int, body: dict[str, object]) -> None:
        """Send JSON, as Kaggle's API does."""
        self.answer(status, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def _meet_faults(self, endpoint: str, body: dict[str, object]) -> bool:
        """Note the request, and return whether it is to be answered as usual."""
        kaggle = self.server.kaggle
        kaggle.requests.append(Request(endpoint, dict(self.headers), body))
        faults = kaggle.faults.get(endpoint, [])
        return faults.pop(0)(self) if faults else True


class Server(ThreadingHTTPServer):
    """The server, silent about clients that go away."""

    daemon_threads = True
    block_on_close = False
    kaggle: FakeKaggle

    def handle_error(self, *_: object) -> None:
        """Keep quiet: clients are killed here."""


@contextmanager
def serving(archive: bytes) -> Iterator[FakeKaggle]:
    """Serve an archive on a free port of the loopback interface."""
    kaggle = FakeKaggle(archive)
    with Server(("127.0.0.1", 0), Handler) as server:
        server.kaggle = kaggle
        kaggle.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield kaggle
        kaggle.closing.set()
        server.shutdown()


def status(code: int, headers: dict[str, str] | None = None) -> Fault:
    """Answer with an error whose body and header name the signature, as the object store's do."""

    def fault(handler: Handler) -> bool:
        body = f"<Error><Code>{code}</Code><Details>?{SIGNATURE}</Details></Error>".encode()
        handler.answer(code, body, headers)
        return False

    return fault


def in_place_of_data(body: bytes, content_type: str = "text/html") -> Fault:
    """Answer 200 with something that is not the archive."""

    def fault(handler: Handler) -> bool:
        handler.answer(200, body, {"Content-Type": content_type})
        return False

    return fault


def hang(handler: Handler) -> bool:
    """Accept the request and never answer it."""
    handler.server.kaggle.closing.wait(60)
    handler.close_connection = True
    return False


def drop(after: int) -> Fault:
    """Break the connection after so many bytes of the archive."""

    def fault(handler: Handler) -> bool:
        handler.send_archive(stop_after=after)
        return False

    return fault


def stall(after: int) -> Fault:
    """Send so many bytes of the archive, then nothing, with the connection open."""

    def fault(handler: Handler) -> bool:
        handler.send_archive(stop_after=after)
        handler.wfile.flush()
        return hang(handler)

    return fault


def slowly(pause: float, chunk: int = 1 << 16) -> Fault:
    """Send the archive a chunk at a time."""

    def fault(handler: Handler) -> bool:
        handler.send_archive(chunk=chunk, pause=pause)
        return False

    return fault


def flip(position: int) -> Fault:
    """Send the archive with one bit of one byte wrong."""

    def fault(handler: Handler) -> bool:
        kaggle = handler.server.kaggle
        right = kaggle.archive
        etag = hashlib.md5(right).hexdigest()
        wrong = right[:position] + bytes([right[position] ^ 1]) + right[position + 1 :]
        handler.answer(200, wrong, {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"})
        return False

    return fault


def as_usual(_: Handler) -> bool:
    """Let one request pass."""
    return True
