"""The stages train and evaluate: which run they are about, and a finished run that is taken as it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pipeline import training_inputs

from ci import demo
from faces.cli import InputError
from faces.training import machine
from stages import evaluate, train

PARAMS = demo.overlay(
    demo.overlay(
        demo.SAMPLE,
        demo.every_run(freeze="layer4", max_epochs=1, patience=1, transforms={"resize": 32, "crop": 32}),
    ),
    {"train": demo.SAMPLE["recipes"]["trial2"], "evaluate": {"resamples": 100}},
)
DATA, SPLIT, LANDMARKS = Path("data"), Path("split/seed1.csv"), Path("embed/landmarks.csv")
INPUTS = {"weights": Path("weights"), "landmarks": LANDMARKS, "detector": Path("weights/faces")}


def train_run(name: str, **options: Any) -> None:
    folder = Path("models/active" if name == "active" else f"models/runs/{name}")
    history = Path(f"plots/history/{name}.csv")
    train.main(name, DATA, SPLIT, **INPUTS, out=folder, history=history, **options)


def evaluate_run(name: str, split: Path = SPLIT, model: str | None = None) -> None:
    evaluate.main(
        name,
        DATA,
        split,
        landmarks=LANDMARKS,
        model=Path(model or f"models/runs/{name}"),
        predictions=Path(f"predictions/runs/{name}.csv"),
        metrics=Path(f"metrics/runs/{name}.json"),
        curves=Path(f"plots/curves/{name}"),
    )


def read(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project in which trial2 is trained; every other validation image is there as a test image, too."""
    root = tmp_path_factory.mktemp("project")
    training_inputs(root, PARAMS, per_class=10, train=5)
    rows = (root / "split/seed1.csv").read_text(encoding="utf-8").splitlines()
    held_out = [row for row in rows if row.endswith("validation")]
    moved = [row.replace("validation", "test") if row in held_out[::2] else row for row in rows]
    (root / "split/seed1.csv").write_text("\n".join(moved) + "\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("FACES_CACHE", str(root / "cache"))
        train_run("trial2")
    return root


@pytest.fixture
def project(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    monkeypatch.setenv("FACES_CACHE", str(trained / "cache"))
    return trained


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "fit", lambda *_: pytest.fail("trained"))


def test_a_record_says_what_was_trained_on_what(project: Path) -> None:
    facts = read("models/runs/trial2/run.json")
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    assert (facts["run"], facts["source"], facts["split"], facts["seed"]) == ("trial2", "sample", "seed1", 1)
    assert facts["recipe"] | {"precision": None} == {
        key: None if key == "precision" else params["train"][key] for key in facts["recipe"]
    }
    assert facts["machine"] == machine.arithmetic("cpu", facts["recipe"]["precision"])
    assert [line["epoch"] for line in facts["history"]] == [1]
    assert facts["at_best"] == facts["at_stop"] == facts["history"][0]
    header, line = Path("plots/history/trial2.csv").read_text(encoding="utf-8").splitlines()
    assert line.split(",")[1] == str(round(facts["history"][0][header.split(",")[1]], 6))


@pytest.mark.usefixtures("no_training")
def test_a_finished_run_that_is_the_same_is_taken(project: Path) -> None:
    train_run("active", finished=Path("models/runs"), validation=Path("metrics/validation.json"))
    earlier, facts = read("models/runs/trial2/run.json"), read("models/active/run.json")
    assert facts == {**earlier, "run": "active"}
    for name in ("model.pt", "timing.json"):
        assert Path("models/active", name).read_bytes() == Path("models/runs/trial2", name).read_bytes()
    assert Path("plots/history/active.csv").read_bytes() == Path("plots/history/trial2.csv").read_bytes()
    assert read("metrics/validation.json") == {
        "val_accuracy": round(facts["finished"]["val_accuracy"], 4),
        "val_loss": round(facts["finished"]["val_loss"], 4),
        "n_validation": facts["n_validation"],
        "best_epoch": 1,
    }


@pytest.mark.parametrize("changed", ["recipe", "transforms", "seed", "weights", "images"])
def test_a_run_that_differs_in_anything_is_not(project: Path, changed: str) -> None:
    facts = read("models/runs/trial2/run.json")
    identity = {key: facts[key] for key in ("recipe", "seed", "weights", "images")}
    assert train.take([Path("models/runs/trial2")], identity) is not None
    other = {
        "recipe": {"recipe": {**facts["recipe"], "patience": 9}},
        "transforms": {"recipe": {**facts["recipe"], "transforms": {**facts["recipe"]["transforms"], "flip": 0.1}}},
        "seed": {"seed": 2},
        "weights": {"weights": {"sha256": "1", "known_as": "others"}},
        "images": {"images": [*facts["images"][:1], "another"]},
    }[changed]
    assert train.take([Path("models/runs/trial2")], identity | other) is None


def test_what_params_yaml_does_not_name_is_not_taken(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of a run that was removed may be of older code."""
    asked: list[Path] = []
    monkeypatch.setattr(train, "take", lambda folders, identity: asked.extend(folders))
    monkeypatch.setattr(train, "fit", lambda *_: None)
    train_run("active", finished=Path("models/runs"))
    names = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["runs"]
    assert asked == [Path("models/runs", name) for name in names]


def test_a_run_that_was_stopped_before_its_end_is_not_there(project: Path) -> None:
    Path("models/runs/half").mkdir(exist_ok=True)
    assert train.take([Path("models/runs/half"), Path("models/runs/none")], {}) is None


@pytest.mark.usefixtures("no_training")
def test_another_splits_file_is_one_clear_line(project: Path) -> None:
    with pytest.raises(InputError, match=r"seed2\.csv is not the split of the run trial1, which .* calls seed1"):
        train.main("trial1", DATA, Path("split/seed2.csv"), **INPUTS, out=Path("out"), history=Path("h.csv"))
    with pytest.raises(InputError, match=r"no run is named 'trial9'; there are: active, improved"):
        train_run("trial9")


def test_evaluation_leaves_what_prediction_needs_with_the_model(project: Path) -> None:
    evaluate_run("trial2")
    document, threshold = read("metrics/runs/trial2.json"), read("models/runs/trial2/threshold.json")
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    assert threshold == {
        "value": document["operating_point"]["threshold"],
        "target_recall": params["evaluate"]["recall"],
        "n": document["operating_point"]["validation"]["recall"]["n"],
        "max_pixels": params["audit"]["max_pixels"],
        "model_sha256": read("models/runs/trial2/run.json")["model_sha256"],
    }
    assert len(Path("predictions/runs/trial2.csv").read_text(encoding="utf-8").splitlines()) == 1 + 10
    assert document["training"]["recipe"]["transforms"]["resize"] == 32


def test_evaluation_of_another_run_is_one_clear_line(project: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json is not of the run trial1 on the split seed1"):
        evaluate_run("trial1", model="models/runs/trial2")
    with pytest.raises(InputError, match=r"run\.json is not of the run trial2 on the split seed2"):
        evaluate_run("trial2", Path("split/seed2.csv"))
