"""One recipe over several splits: the spread is the documents', the suspects are always held for the other class."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from faces.cli import InputError
from faces.evidence import repeats
from faces.evidence.documents import RunMetrics, read_document
from faces.evidence.metrics import evaluate_predictions
from faces.params import Evaluate, Run, load_params
from stages import repeats as stage

EVALUATE = Evaluate(confidence=0.95, resamples=200, seed=1, recall=0.98)
EPOCH = {"epoch": 16, "train_loss": 0.1, "train_accuracy": 0.9, "val_loss": 0.1, "val_accuracy": 0.9}
FACTS: dict[str, Any] = {
    "run": "improved",
    "source": "kaggle",
    "recipe": {"batch_size": 64, "transforms": {"crop": 192}},
    "split": "seed1",
    "seed": 1,
    "stopped_epoch": 16,
    "best_epoch": 16,
    "n_train": 210,
    "n_validation": 60,
    "device": "cpu",
    "weights": {"sha256": "0", "known_as": "random"},
    "model_sha256": "1",
    "at_best": EPOCH,
    "at_stop": EPOCH,
}


def split(seed: int) -> pd.DataFrame:
    """Return predictions for 90 of 300 images, others for each seed; face_0 is always scored for the other class."""
    rng = np.random.default_rng(seed)
    held_out = rng.permutation(np.arange(2, 300))[:88]
    rows = []
    for place, image in enumerate([0, 1, *held_out]):
        y_true = int(image % 2)
        y_score = float(np.clip(y_true + rng.normal(0, 0.4) * (1 - 2 * y_true), 0, 1))
        if image == 0:
            y_score = 0.97
        rows.append((f"face_{image}.jpg", "test" if place < 30 else "validation", y_true, round(y_score, 6)))
    return pd.DataFrame(rows, columns=["path", "subset", "y_true", "y_score"])


Runs = tuple[dict[str, RunMetrics], dict[str, pd.DataFrame]]


@pytest.fixture(scope="module")
def runs() -> Runs:
    predictions = {f"seed{seed}": split(seed) for seed in (3, 1, 2)}
    return {name: evaluate_predictions(rows, EVALUATE, FACTS) for name, rows in predictions.items()}, predictions


def test_the_spread_is_that_of_the_documents(runs: Runs) -> None:
    documents, predictions = runs
    summary = repeats.summarise(documents, predictions, 0.95)
    assert list(summary.splits) == ["seed3", "seed1", "seed2"]
    assert (summary.seed, summary.target_recall, summary.confidence) == (1, 0.98, 0.95)
    for name, document in documents.items():
        assert summary.splits[name].metrics["accuracy"] == document.metrics["accuracy"]
        point = document.operating_point.test["specificity"]
        assert summary.splits[name].metrics["specificity_at_point"] == point
    values = [document.metrics["accuracy"].value for document in documents.values()]
    over = summary.over_splits["accuracy"]
    assert (over.n, over.min, over.max) == (3, min(values), max(values))
    assert over.mean == pytest.approx(np.mean(values), abs=1e-6)
    half = t.ppf(0.975, 2) * np.std(values, ddof=1) / 3**0.5
    assert over.high
    assert over.high - over.mean == pytest.approx(half, abs=1e-5)


def test_the_threshold_is_the_most_accurate_on_validation(runs: Runs) -> None:
    y_true, y_score = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.6, 0.7, 0.8, 0.9, 0.95])
    assert repeats.most_accurate_threshold(y_true, y_score) == 0.9  # as 0.7: five of six right
    documents, predictions = runs
    found = repeats.summarise(documents, predictions, 0.95).splits["seed2"]
    rows = predictions["seed2"]
    validation, test = (rows[rows["subset"] == name] for name in ("validation", "test"))

    def right(of: pd.DataFrame, threshold: float) -> int:
        return int(((of.y_score >= threshold) == (of.y_true == 1)).sum())

    most = max(right(validation, score) for score in validation.y_score)
    chosen = found.metrics["accuracy_chosen"]
    assert right(validation, found.threshold_chosen) == most
    assert chosen.value == pytest.approx(right(test, found.threshold_chosen) / len(test), abs=1e-6)
    assert chosen.n == len(test)


def test_an_image_counts_once_however_often_it_was_held_out(runs: Runs) -> None:
    documents, predictions = runs
    held_out = repeats.summarise(documents, predictions, 0.95).held_out
    scores: dict[str, list[float]] = {}
    truth: dict[str, int] = {}
    for rows in predictions.values():
        for path, y_true, y_score in rows[["path", "y_true", "y_score"]].itertuples(index=False):
            scores.setdefault(path, []).append(y_score)
            truth[path] = y_true
    right = sum((sum(s) / len(s) >= 0.5) == bool(truth[path]) for path, s in scores.items())
    assert held_out.n == len(scores) < sum(map(len, predictions.values()))
    assert held_out.value == pytest.approx(right / len(scores), abs=1e-6)


def test_images_wrong_every_time_and_only_sometimes(runs: Runs) -> None:
    documents, predictions = runs
    again = repeats.summarise(documents, predictions, 0.95).again
    wrong: dict[str, list[bool]] = {}
    for rows in predictions.values():
        for path, y_true, y_score in rows[["path", "y_true", "y_score"]].itertuples(index=False):
            wrong.setdefault(path, []).append((y_score >= 0.5) != bool(y_true))
    several = [times for times in wrong.values() if len(times) >= 2]
    assert again.n == len(several)
    assert again.always_wrong == sum(all(times) for times in several) >= 1
    assert again.sometimes_wrong == sum(any(times) and not all(times) for times in several) >= 1


def test_the_suspects_are_sure_and_held_out_twice(runs: Runs) -> None:
    documents, predictions = runs
    summary = repeats.summarise(documents, predictions, 0.95)
    assert summary.suspects[0].model_dump() == {
        "path": "face_0.jpg",
        "label": "healthy",
        "times_held_out": 3,
        "other_class": 0.97,
    }
    assert all(row.times_held_out >= 2 and row.other_class >= 0.9 for row in summary.suspects)
    once = repeats.summarise({"seed1": documents["seed1"]}, {"seed1": predictions["seed1"]}, 0.95)
    assert once.suspects == ()
    assert once.over_splits["accuracy"].low is None


@pytest.mark.parametrize(("key", "value"), [("recipe", {"batch_size": 32}), ("seed", 2)])
def test_runs_that_differ_in_more_than_their_split_are_refused(runs: Runs, key: str, value: object) -> None:
    documents, predictions = runs
    training = documents["seed2"].training.model_copy(update={key: value})
    other = documents["seed2"].model_copy(update={"training": training})
    with pytest.raises(InputError, match=f"the run on split seed2 has another {key}"):
        repeats.summarise({**documents, "seed2": other}, predictions, 0.95)


def run_on(recipe: str, split: str, seed: int = 1, **more: Any) -> Run:
    return Run.model_validate({"recipe": recipe, "split": split, "seed": seed, **more})


def test_recipes_with_runs_on_several_splits_are_found() -> None:
    planned = {
        "trial1": run_on("trial1", "seed1"),
        "trial1-again": run_on("trial1", "seed1", seed=2),  # another seed is not another split
        "improved": run_on("improved", "seed1"),
        "improved-2": run_on("improved", "seed2"),
        "smaller": run_on("improved", "seed3", change={"batch_size": 8}),  # not the same recipe
        "improved-s2": run_on("improved", "seed1", seed=2),
        "improved-2-s2": run_on("improved", "seed2", seed=2),
        "of-children-1": run_on("improved", "children1"),
        "of-children-2": run_on("improved", "children2"),
    }
    assert repeats.repeated(planned, load_params().splits) == {
        "improved-children": {"children1": "of-children-1", "children2": "of-children-2"},
        "improved": {"seed1": "improved", "seed2": "improved-2"},
        "improved-seed2": {"seed1": "improved-s2", "seed2": "improved-2-s2"},
    }


def test_the_stage_summarises_the_runs_of_params_yaml(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, predictions = runs
    params = load_params()
    planned = {name: run_on("improved", name) for name in ("seed1", "seed2")} | {"trial1": run_on("trial1", "seed1")}
    monkeypatch.setattr(stage, "load_params", lambda: params.model_copy(update={"runs": planned}))
    for name in documents:  # seed3 is there, but not in params.yaml
        for folder in ("m", "p"):
            (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / "m" / f"{name}.json").write_text(json.dumps(documents[name].model_dump()), encoding="utf-8")
        predictions[name].to_csv(tmp_path / "p" / f"{name}.csv", index=False)
    stage.main(tmp_path / "m", tmp_path / "p", tmp_path / "out.json")
    summaries = read_document(dict[str, repeats.Repeats], tmp_path / "out.json")
    assert {recipe: list(summary.splits) for recipe, summary in summaries.items()} == {"improved": ["seed1", "seed2"]}
    planned.pop("seed2")
    stage.main(tmp_path / "m", tmp_path / "p", tmp_path / "none.json")
    assert read_document(dict[str, repeats.Repeats], tmp_path / "none.json") == {}
