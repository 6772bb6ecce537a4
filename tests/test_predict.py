"""Scoring images from the command line: what comes out, what is said about unreadable files, and what is refused."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from drawn_runs import finished_run
from torchvision.models import resnet34

from faces import predict
from faces.cli import InputError
from faces.files import file_sha256
from faces.images import decode as images
from faces.params import Recipe, load_params
from faces.source.sample import draw
from faces.training.features import FrozenFeatures, Images
from faces.training.loop import predict as evaluate
from faces.training.model import Tail, load_model

REPOSITORY = Path(__file__).parents[1]
RECIPE = {
    "batch_size": 8,
    "learning_rate": 0.001,
    "freeze": "layer3",
    "max_epochs": 1,
    "patience": 1,
    "weight_decay": 0.01,
    "schedule": "constant",
    "label_smoothing": 0.0,
    "ema_decay": 0.0,
    "precision": "bf16",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with an untrained model that calls about half of the drawn faces Down syndrome."""
    root = tmp_path_factory.mktemp("project with spaces")
    draw(root / "data", 8)
    torch.manual_seed(0)
    network = resnet34(num_classes=2)
    (root / "models/active").mkdir(parents=True)
    torch.save(network.state_dict(), root / "models/active/model.pt")
    transforms = load_params(REPOSITORY / "params.yaml").transforms.model_dump() | {"resize": 40, "crop": 48}
    facts = {
        "run": "train",
        "source": "kaggle",
        "recipe": RECIPE,
        "transforms": transforms,
        "model_sha256": file_sha256(root / "models/active/model.pt"),
    }
    (root / "models/active/run.json").write_text(json.dumps(facts))
    document = finished_run("trial2")[1].model_dump() | {"run": "active", "model_sha256": facts["model_sha256"]}
    document["operating_point"]["threshold"] = 0.5
    (root / "metrics").mkdir()
    (root / "metrics/active.json").write_text(json.dumps(document))
    (root / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    return root


@pytest.fixture
def project(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(built)
    return built


def run(*paths: str, **options: Any) -> int:
    """Run the command and return its exit status."""
    try:
        predict.main([Path(path) for path in paths], **options)
    except typer.Exit as end:
        return end.exit_code
    return 0


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_folder_and_files_as_csv(project: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    (project / "data/down_syndrome/._down_1.jpg").write_bytes(b"macOS leaves these")
    status = run("data/down_syndrome", "data/healthy/healty_1.jpg", "data/down_syndrome/down_1.jpg")
    out, err = capsysbinary.readouterr()
    rows = table(out.decode())
    assert status == 0
    assert [row["path"] for row in rows][-1] == "data/healthy/healty_1.jpg"
    assert len(rows) == 9  # eight of the folder, in order, and the healthy one; down_1.jpg once
    assert [row["path"] for row in rows[:-1]] == sorted(row["path"] for row in rows[:-1])
    for row in rows:
        assert 0 <= float(row["probability"]) <= 1
        assert row["decision"] == ("down_syndrome" if float(row["probability"]) >= 0.5 else "healthy")
        assert row["error"] == ""
        assert row["model_sha256"] == file_sha256(project / "models/active/model.pt")
    assert b"not a diagnostic" in err


@pytest.mark.parametrize("mirrored", [False, True])
def test_scores_are_evaluation_s_own(project: Path, mirrored: bool, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    facts = json.loads(Path("models/active/run.json").read_text())
    own = {**facts, "transforms": {**facts["transforms"], "evaluation_flip": mirrored, "evaluation_crop": 56}}
    Path("models/active/run.json").write_text(json.dumps(own))
    try:
        run("data/down_syndrome", batch_size=3)
    finally:
        Path("models/active/run.json").write_text(json.dumps(facts))
    rows = table(capsysbinary.readouterr().out.decode())
    network = load_model(Path("models/active/model.pt"))
    transforms = load_params().transforms.model_validate(own["transforms"])
    recipe, device = Recipe.model_validate(RECIPE), torch.device("cpu")
    frozen = FrozenFeatures(network, recipe, transforms, 0, device)
    pixels = images.load(Path(), [row["path"] for row in rows], transforms.resize)
    subset = Images(torch.from_numpy(pixels), torch.zeros(len(rows)), "key of this test")
    tail = Tail(network, recipe.freeze, recipe.precision)
    views = [
        evaluate(tail, frozen.clean(subset, torch.arange(len(rows)), mirror), device).softmax(dim=1)[:, 1]
        for mirror in ((False, True) if mirrored else (False,))
    ]
    y_score = torch.stack(views).mean(dim=0)
    assert [float(row["probability"]) for row in rows] == pytest.approx(y_score.tolist(), abs=2e-3)  # bf16
    assert np.ptp(y_score.numpy()) > 0.01


def test_unreadable_files_are_reported_and_the_others_done(
    project: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    status = run("data/healthy", "data/down_syndrome/Thumbs.db", "nowhere.jpg", format="json", batch_size=2)
    out, err = capsysbinary.readouterr()
    document = json.loads(out)
    errors = {Path(p["path"]).name: p["error"] for p in document["predictions"] if p["error"]}
    assert status == 1
    assert errors == {
        "healty_9.jpg": "truncated",
        "Thumbs.db": "not an image",
        "nowhere.jpg": "no such file or directory",
    }
    for p in document["predictions"]:
        assert (p["probability"] is None) == (p["decision"] is None) == (p["error"] is not None)
    assert sum(p["error"] is None for p in document["predictions"]) == 8
    assert b"3 of 11 could not be read" in err
    assert "not a diagnostic" in document["notice"]
    assert document["threshold"] == 0.5


def test_output_file(project: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    target = tmp_path / "new folder" / "scores.csv"
    assert run("data/down_syndrome/down_3.png", output=target) == 0
    assert capsysbinary.readouterr().out == b""
    assert [row["path"] for row in table(target.read_text())] == ["data/down_syndrome/down_3.png"]


def test_odd_file_names(project: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    folder = tmp_path / 'é, "quoted"'
    folder.mkdir()
    names = ['comma, quote".jpg', "line\nbreak.jpg", b"\xff.jpg".decode("utf-8", "surrogateescape")]
    for name in names:
        (folder / name).write_bytes(Path("data/healthy/healty_1.jpg").read_bytes())
    assert run(str(folder)) == 0
    rows = list(csv.DictReader(io.StringIO(capsysbinary.readouterr().out.decode(), newline="")))
    assert {Path(row["path"]).name for row in rows} == {*names[:2], "\\udcff.jpg"}
    assert len({row["probability"] for row in rows}) == 1


def test_sample_model_says_that_it_means_nothing(
    project: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    facts = json.loads(Path("models/active/run.json").read_text())
    (tmp_path / "model.pt").symlink_to(project / "models/active/model.pt")
    (tmp_path / "run.json").write_text(json.dumps(facts | {"source": "sample"}))
    run("data/healthy/healty_1.jpg", model=tmp_path, metrics=Path("metrics/active.json"))
    assert b"trained on drawn faces" in capsysbinary.readouterr().err


def test_refusals(project: Path, tmp_path: Path) -> None:
    image = "data/healthy/healty_1.jpg"
    with pytest.raises(InputError, match="holds no images"):
        run("models")
    with pytest.raises(InputError, match=r"holds no trained model .*run `dvc repro`"):
        run(image, model=Path("data"))
    (tmp_path / "trial9").symlink_to(project / "models/active")
    with pytest.raises(InputError, match=r"metrics/trials/trial9.json not found"):
        run(image, model=tmp_path / "trial9")
    document = json.loads(Path("metrics/active.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps(document | {"model_sha256": "0" * 64}))
    with pytest.raises(InputError, match=r"other.json is about another model than models/active/model.pt"):
        run(image, metrics=tmp_path / "other.json")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/run.json").write_text("[]")
    with pytest.raises(InputError, match="is not a run's record"):
        run(image, model=tmp_path / "broken")
    (tmp_path / "broken/run.json").write_text("{}")
    with pytest.raises(InputError, match="lacks model_sha256, recipe, source, transforms"):
        run(image, model=tmp_path / "broken")
    facts = json.loads(Path("models/active/run.json").read_text())
    del facts["recipe"]["precision"]
    (tmp_path / "broken/run.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="is not a run's record"):
        run(image, model=tmp_path / "broken")


def test_command_line(project: Path) -> None:
    command = [sys.executable, "-m", "faces.predict", "data/healthy", "--batch-size", "4", "--format", "csv"]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(REPOSITORY), "LC_ALL": "C", "PATH": ""}, capture_output=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert len(table(done.stdout.decode())) == 9
    assert b"not a diagnostic" in done.stderr
    assert b"Traceback" not in done.stderr
