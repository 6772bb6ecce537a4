"""The weights stage: a file placed beforehand, random ones, a download, and what is said when that fails."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.models import ResNet34_Weights, resnet18, resnet34

from faces.cli import InputError
from stages import weights

OUT = Path("weights/resnet34.pth"), Path("weights/facts.json")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "params.yaml").write_bytes(Path("params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def place(state: dict[str, torch.Tensor]) -> str:
    weights.DOWNLOADED.parent.mkdir(exist_ok=True)
    torch.save(state, weights.DOWNLOADED)
    return hashlib.sha256(weights.DOWNLOADED.read_bytes()).hexdigest()


def test_a_file_placed_beforehand_is_taken_as_it_is(project: Path) -> None:
    sha256 = place(resnet34(weights=None).state_dict())
    weights.main(*OUT)
    assert hashlib.sha256(OUT[0].read_bytes()).hexdigest() == sha256
    assert json.loads(OUT[1].read_text(encoding="utf-8")) == {"sha256": sha256, "known_as": "unknown weights"}


def test_weights_of_another_architecture_leave_nothing(project: Path) -> None:
    place(resnet18(weights=None).state_dict())
    with pytest.raises(InputError, match="not a ResNet-34"):
        weights.main(*OUT)
    assert not OUT[0].exists()
    assert not OUT[1].exists()


def test_random_weights_follow_the_seed_and_say_what_they_are(project: Path) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    found = []
    for seed in (1, 1, 2):
        Path("params.yaml").write_text(yaml.safe_dump({**params, "weights": {"source": "random", "seed": seed}}))
        weights.main(*OUT)
        found.append(OUT[0].read_bytes())
    assert found[0] == found[1] != found[2]
    assert "sample" in json.loads(OUT[1].read_text(encoding="utf-8"))["known_as"]


class Server(http.server.BaseHTTPRequestHandler):
    content = b""

    def do_GET(self) -> None:
        self.send_response(200 if self.content else 503)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def serve(monkeypatch: pytest.MonkeyPatch, address: str, content: bytes, sha256: str) -> None:
    monkeypatch.setattr(Server, "content", content)
    official = ResNet34_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(official, "url", f"{address}/resnet34-{sha256[:8]}.pth")


def test_a_download_is_checked_against_the_hash_in_its_name(
    project: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(resnet34(weights=None).state_dict(), project / "official.pth")
    content = (project / "official.pth").read_bytes()
    serve(monkeypatch, address, content, hashlib.sha256(content).hexdigest())
    weights.main(*OUT)
    assert OUT[0].read_bytes() == content

    weights.DOWNLOADED.unlink()
    serve(monkeypatch, address, content, "0" * 64)
    with pytest.raises(InputError, match=r"invalid hash value.*make repro WEIGHTS="):
        weights.main(*OUT)
    assert not weights.DOWNLOADED.exists()


def test_no_network_says_what_else_can_be_done(project: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, address, b"", "0" * 64)
    with pytest.raises(InputError, match=r"cannot download .*Service Unavailable.*make repro WEIGHTS=file.pth"):
        weights.main(*OUT)
    assert not OUT[0].exists()
