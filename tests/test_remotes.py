"""What one person pushes, another pulls: an S3 server on loopback, and a folder."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BUCKET = "faces"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Start an S3 server of one's own on a free port of loopback, and return its address."""
    from moto.server import ThreadedMotoServer

    with socket.socket() as probe:  # taken by a proxy or another test run, a fixed port would fail
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave the machine's own DVC and AWS settings aside, and give made-up credentials."""
    for name in [name for name in os.environ if name.upper().startswith(("AWS_", "DVC_"))]:
        monkeypatch.delenv(name)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    settings = {
        "AWS_ACCESS_KEY_ID": "made-up",
        "AWS_SECRET_ACCESS_KEY": "made-up",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "DVC_NO_ANALYTICS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(tmp_path / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(tmp_path / "system"),
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


def dvc(project: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def share(tmp_path: Path, url: str, *options: str) -> None:
    """Push a stage's output from one project and pull it into another that has only its text files."""
    mine, theirs = tmp_path / "mine", tmp_path / "their project"
    (mine / ".dvc").mkdir(parents=True)
    remote = ["[core]", "no_scm = true", "remote = shared", "['remote \"shared\"']", f"url = {url}", *options]
    (mine / ".dvc/config").write_text("\n".join(remote) + "\n")
    (mine / "train.py").write_text("open('model.pt', 'wb').write(bytes(range(256)) * 99)")
    command = f'"{sys.executable}" train.py'
    (mine / "dvc.yaml").write_text(
        json.dumps({"stages": {"train": {"cmd": command, "deps": ["train.py"], "outs": ["model.pt"]}}})
    )
    dvc(mine, "repro", "--quiet")
    dvc(mine, "push", "--quiet")

    (theirs / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", "dvc.yaml", "dvc.lock", "train.py"):
        (theirs / name).write_bytes((mine / name).read_bytes())
    dvc(theirs, "pull", "--quiet")
    assert (theirs / "model.pt").read_bytes() == bytes(range(256)) * 99
    assert "up to date" in dvc(theirs, "status")  # nothing to rebuild


@pytest.mark.usefixtures("environment")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_s3(tmp_path: Path, s3: str) -> None:
    import boto3

    boto3.client("s3", endpoint_url=s3).create_bucket(Bucket=BUCKET)
    share(tmp_path, f"s3://{BUCKET}/dvc", f"endpointurl = {s3}")
    stored = boto3.client("s3", endpoint_url=s3).list_objects_v2(Bucket=BUCKET)["Contents"]
    assert [entry["Size"] for entry in stored] == [256 * 99]
    assert stored[0]["Key"].startswith("dvc/files/md5/")


@pytest.mark.usefixtures("environment")
def test_folder(tmp_path: Path) -> None:
    share(tmp_path, str(tmp_path / "shared folder"))
    stored = [path for path in (tmp_path / "shared folder").rglob("*") if path.is_file()]
    assert [path.stat().st_size for path in stored] == [256 * 99]
