"""What one person pushes, another pulls: an S3 server on loopback, and a folder; pictures of a person stay here."""

import csv
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline import stages
from trained import model_folder, recipe

from ci import demo
from ci.demo import overlay
from faces.source.sample import draw

BUCKET = "faces"
RUN = {"split": "seed1", "seed": 1}
FEW = overlay(
    demo.SAMPLE,
    {
        "splits": {"seed1": {"scheme": "stratified", "seed": 1, "groups": "duplicates"}},
        "runs": {name: {"recipe": name, **RUN} for name in ("trial1", "improved")},
    },
)
PERSONAL = ("data", "downloads/images", "embed", "reports/gallery")  # photographs, and what is measured of faces


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
    return execute(project, sys.executable, "-m", "dvc", *arguments)


def execute(project: Path, *command: str, **more: str) -> str:
    environment = {**os.environ, **more}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=120)
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


@pytest.fixture
def mine(environment: None, tmp_path: Path, s3: str) -> Path:
    """Return a repository with this dvc.yaml, every output as if its stage had run, and the S3 server as its remote.

    Photographs are drawn faces, the improved model is a network that nobody trained, all else holds its own path.
    """
    import boto3

    root = tmp_path / "mine"
    demo.prepare(root, FEW, git=True)
    draw(root / "downloads/images", 8)
    draw(root / "data", 8)
    model_folder(root / "models/runs/improved", recipe(transforms={"resize": 40, "crop": 48}), source="sample")
    for path in ("downloads/source", *(out for stage in stages(FEW) for out in stage.outs)):
        target = root / path
        if not target.suffix and path != "downloads/source":
            target = target / ("mistakes.html" if path in PERSONAL else "file.csv")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.write_text(json.dumps({"of": path}) if target.suffix == ".json" else path)
    for path in ("metrics/metrics.json", "metrics/model.json"):
        values = {"accuracy": 0.9, "n_test": 300}
        (root / path).write_text(json.dumps(values if path == "metrics/metrics.json" else {"improved": values}))
    dvc(root, "commit", "--quiet", "--force")
    execute(root, "git", "add", "--all")
    execute(root, "git", "commit", "--quiet", "--message=results")

    bucket = f"faces-{time.monotonic_ns()}"
    boto3.client("s3", endpoint_url=s3).create_bucket(Bucket=bucket)
    for place in ("--local", "--global"):  # global: for those who get a file without a clone of their own
        dvc(root, "remote", "add", "--quiet", place, "--default", "shared", f"s3://{bucket}")
        dvc(root, "remote", "modify", "--quiet", place, "shared", "endpointurl", s3)
    return root


def pushed(s3: str, mine: Path) -> set[str]:
    """Return the MD5 of each file in the remote."""
    import boto3

    bucket = dvc(mine, "config", "remote.shared.url").strip().removeprefix("s3://")
    pages = boto3.client("s3", endpoint_url=s3).get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    return {"".join(key.split("/")[-2:]) for key in keys if key.startswith("files/md5/")}


def digests(root: Path, *folders: str) -> dict[str, str]:
    """Return the MD5 of each file below the folders, and which file it is."""
    files = [path for folder in folders for path in sorted((root / folder).rglob("*")) if path.is_file()]
    return {hashlib.md5(path.read_bytes()).hexdigest(): path.relative_to(root).as_posix() for path in files}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_no_push_sends_a_picture_of_a_person(mine: Path, s3: str) -> None:
    personal = digests(mine, *PERSONAL)
    assert {path.split("/")[0] for path in personal.values()} == {
        "downloads",
        "embed",
        "reports",
    }  # data is the same files
    cache = mine / ".dvc/cache/files/md5"
    cached = {"".join(path.parts[-2:]) for path in cache.rglob("*") if path.is_file()}
    assert personal.keys() <= cached  # so that they could be pushed

    for words in (["--run-cache"], ["--all-commits"], ["data"], ["downloads/images"], ["embed"], ["reports/gallery"]):
        dvc(mine, "push", "--quiet", *words)
    found = pushed(s3, mine)
    assert [path for md5, path in personal.items() if md5 in found] == []
    assert digests(mine, "models", "weights").keys() <= found
    for name in found:  # nor is any of it a picture or an array under another name, or a list of them
        content = (cache / name[:2] / name[2:]).read_bytes()
        assert not content.startswith((b"\xff\xd8", b"\x89PNG", b"\x93NUMPY")), name
        assert b".jpg" not in content, name


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_colleague_pulls_all_but_the_pictures(mine: Path, tmp_path: Path) -> None:
    dvc(mine, "push", "--quiet")
    theirs = tmp_path / "their clone"
    execute(tmp_path, "git", "clone", "--quiet", str(mine), str(theirs))
    dvc(theirs, "pull", "--quiet", "--allow-missing")
    for folder in ("models", "weights", "metrics", "plots", "predictions"):
        assert digests(theirs, folder) == digests(mine, folder), folder
    assert digests(theirs, *PERSONAL) == {}
    assert "up to date" in dvc(theirs, "repro", "--dry", "--allow-missing")
    shown = json.loads(dvc(theirs, "metrics", "show", "--json"))[""]["data"]
    assert shown["metrics/model.json"]["data"]["improved"]["accuracy"] == 0.9


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_model_works_in_any_folder(mine: Path, tmp_path: Path) -> None:
    dvc(mine, "push", "--quiet")
    execute(mine, "git", "tag", "--annotate", "--message=first", "improved@v1.0.0")
    dvc(tmp_path, "get", "--quiet", str(mine), "models/runs/improved", "--out", "by path")
    dvc(tmp_path, "artifacts", "get", str(mine), "improved", "--out", "by name")
    draw(tmp_path / "pictures", 8)
    rows = []
    for folder in ("by path", "by name"):
        names = {path.name for path in (tmp_path / folder).iterdir()}
        assert names == {"detector.onnx", "model.pt", "run.json", "threshold.json", "timing.json"}
        command = [sys.executable, "-m", "faces.predict", "pictures/healthy/healty_7.jpg", "--model", folder]
        rows.append(execute(tmp_path, *command, PYTHONPATH=str(Path(__file__).parents[1])))
    assert rows[0] == rows[1]
    (row,) = csv.DictReader(rows[0].splitlines())
    assert 0 < float(row["probability"]) < 1
