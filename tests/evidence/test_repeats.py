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
from faces.evidence.metrics import evaluate_predictions
from faces.params import Evaluate, load_params
from stages import repeats as stage

EVALUATE = Evaluate(confidence=0.95, resamples=200, seed=1, recall=0.98)
FACTS: dict[str, Any] = {
    "run": "trials.improved",
    "source": "kaggle",
    "recipe": {"batch_size": 64},
    "transforms": {"crop": 192},
    "seed": 1,
    "stopped_epoch": 16,
    "best_epoch": 16,
    "n_train": 210,
    "n_validation": 60,
    "weights": {"sha256": "0"},
    "model_sha256": "1",
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


@pytest.fixture(scope="module")
def runs() -> tuple[dict[int, dict[str, Any]], dict[int, pd.DataFrame]]:
    predictions = {seed: split(seed) for seed in (3, 1, 2)}
    return {seed: evaluate_predictions(rows, EVALUATE, FACTS) for seed, rows in predictions.items()}, predictions


def test_the_spread_is_that_of_the_documents(runs: Any) -> None:
    documents, predictions = runs
    summary = repeats.summarise(documents, predictions, 0.95)
    assert list(summary["splits"]) == ["3", "1", "2"]
    for seed, document in documents.items():
        assert summary["splits"][str(seed)]["accuracy"] == document["metrics"]["accuracy"]
        point = document["operating_point"]["test"]["specificity"]
        assert summary["splits"][str(seed)]["specificity_at_point"] == point
    values = [document["metrics"]["accuracy"]["value"] for document in documents.values()]
    over = summary["over_splits"]["accuracy"]
    assert (over["n"], over["min"], over["max"]) == (3, min(values), max(values))
    assert over["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    half = t.ppf(0.975, 2) * np.std(values, ddof=1) / 3**0.5
    assert over["high"] - over["mean"] == pytest.approx(half, abs=1e-5)


def test_the_threshold_is_the_most_accurate_on_validation(runs: Any) -> None:
    y_true, y_score = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.6, 0.7, 0.8, 0.9, 0.95])
    assert repeats.most_accurate_threshold(y_true, y_score) == 0.9  # as 0.7: five of six right
    documents, predictions = runs
    found = repeats.summarise(documents, predictions, 0.95)["splits"]["2"]["accuracy_chosen"]
    rows = predictions[2]
    validation, test = (rows[rows["subset"] == name] for name in ("validation", "test"))

    def right(of: pd.DataFrame, threshold: float) -> int:
        return int(((of.y_score >= threshold) == (of.y_true == 1)).sum())

    most = max(right(validation, score) for score in validation.y_score)
    assert right(validation, found["threshold"]) == most
    assert found["value"] == pytest.approx(right(test, found["threshold"]) / len(test), abs=1e-6)
    assert found["n"] == len(test)


def test_an_image_counts_once_however_often_it_was_held_out(runs: Any) -> None:
    documents, predictions = runs
    held_out = repeats.summarise(documents, predictions, 0.95)["held_out"]
    scores: dict[str, list[float]] = {}
    truth: dict[str, int] = {}
    for rows in predictions.values():
        for path, y_true, y_score in rows[["path", "y_true", "y_score"]].itertuples(index=False):
            scores.setdefault(path, []).append(y_score)
            truth[path] = y_true
    right = sum((sum(s) / len(s) >= 0.5) == bool(truth[path]) for path, s in scores.items())
    assert held_out["n"] == len(scores) < sum(map(len, predictions.values()))
    assert held_out["value"] == pytest.approx(right / len(scores), abs=1e-6)


def test_images_wrong_every_time_and_only_sometimes(runs: Any) -> None:
    documents, predictions = runs
    again = repeats.summarise(documents, predictions, 0.95)["again"]
    wrong: dict[str, list[bool]] = {}
    for rows in predictions.values():
        for path, y_true, y_score in rows[["path", "y_true", "y_score"]].itertuples(index=False):
            wrong.setdefault(path, []).append((y_score >= 0.5) != bool(y_true))
    several = [times for times in wrong.values() if len(times) >= 2]
    assert again["n"] == len(several)
    assert again["always_wrong"] == sum(all(times) for times in several) >= 1
    assert again["sometimes_wrong"] == sum(any(times) and not all(times) for times in several) >= 1


def test_the_suspects_are_sure_and_held_out_twice(runs: Any) -> None:
    documents, predictions = runs
    summary = repeats.summarise(documents, predictions, 0.95)
    assert summary["suspects"][0] == {
        "path": "face_0.jpg",
        "label": "healthy",
        "times_held_out": 3,
        "other_class": 0.97,
    }
    assert all(row["times_held_out"] >= 2 and row["other_class"] >= 0.9 for row in summary["suspects"])
    page = repeats.markdown(summary, 0.98)
    assert "| `face_0.jpg` | healthy | 3 | 0.970 |" in " ".join(page.split())
    once = repeats.summarise({1: documents[1]}, {1: predictions[1]}, 0.95)
    assert once["suspects"] == []
    assert once["over_splits"]["accuracy"]["low"] is None
    assert "at least 90% sure of the other class: none." in repeats.markdown(once, 0.98)


def test_runs_of_another_recipe_are_refused(runs: Any) -> None:
    documents, predictions = runs
    other = {**documents[2], "training": {**documents[2]["training"], "recipe": {"batch_size": 32}}}
    with pytest.raises(InputError, match="split 2 was trained with other recipe"):
        repeats.summarise({**documents, 2: other}, predictions, 0.95)


def test_the_stage_reads_the_seeds_of_params_yaml(runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents, predictions = runs
    params = load_params()
    chosen = params.model_copy(update={"repeats": params.repeats.model_copy(update={"split_seeds": [1, 2]})})
    monkeypatch.setattr(stage, "load_params", lambda: chosen)
    for seed in documents:
        for folder, text in (
            ("m", json.dumps(documents[seed])),
            ("p", predictions[seed].to_csv(index=False)),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{seed}.{'json' if folder == 'm' else 'csv'}").write_text(text, encoding="utf-8")
    stage.main(tmp_path / "m", tmp_path / "p", tmp_path / "out.json", tmp_path / "out.md")
    summary = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert list(summary["splits"]) == ["1", "2"]
    assert "on 2 splits" in (tmp_path / "out.md").read_text(encoding="utf-8")
