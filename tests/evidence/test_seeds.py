"""Several seeds: the interval holds the noise of seeds and of images, and differences are paired by images."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from faces.cli import InputError
from faces.evidence import seeds
from faces.evidence.documents import RunMetrics
from faces.evidence.metrics import evaluate_predictions
from faces.evidence.statistics import crossed_bootstrap
from faces.params import Evaluate, Run

PARAMS = Evaluate(confidence=0.95, resamples=2000, seed=1, recall=0.98)
N = 200


def predictions(y_score: np.ndarray[Any, Any]) -> pd.DataFrame:
    """Return scores of N test images, every second with Down syndrome, and of as many validation images."""
    rows = [
        pd.DataFrame(
            {
                "path": [f"{subset}{i:03}.jpg" for i in range(N)],
                "subset": subset,
                "y_true": np.arange(N) % 2,
                "y_score": y_score.round(6),
            }
        )
        for subset in ("test", "validation")
    ]
    return pd.concat(rows, ignore_index=True)


def scores(rng: np.random.Generator, gap: float, image: np.ndarray[Any, Any], noise: float) -> np.ndarray[Any, Any]:
    logit = gap * (2 * (np.arange(N) % 2) - 1) + image + rng.normal(0, noise, N)
    return np.asarray(1 / (1 + np.exp(-logit)))


def document(name: str, table: pd.DataFrame, seed: int, **recipe: Any) -> RunMetrics:
    epoch = {"epoch": 4, "train_loss": 0.1, "train_accuracy": 0.97, "val_loss": 0.2, "val_accuracy": 0.9 + seed / 1000}
    facts = {
        "run": name,
        "source": "kaggle",
        "recipe": {"batch_size": 32, **recipe},
        "split": "seed1",
        "seed": seed,
        "stopped_epoch": 10 + seed,
        "best_epoch": 4,
        "n_train": 700,
        "n_validation": N,
        "device": "cpu",
        "at_best": epoch,
        "at_stop": epoch,
        "weights": {"sha256": "0" * 64, "known_as": "made up"},
        "model_sha256": "0" * 64,
    }
    return evaluate_predictions(table, PARAMS, facts)


@pytest.fixture
def runs() -> tuple[dict[str, dict[int, str]], dict[str, RunMetrics], dict[str, pd.DataFrame]]:
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1.0, N)  # how hard each image is, for every model
    names = {recipe: {seed: f"{recipe}-seed{seed}" for seed in range(1, 6)} for recipe in ("weak", "strong")}
    tables = {
        name: predictions(scores(rng, {"weak": 1.0, "strong": 2.0}[recipe], image, 0.5))
        for recipe, own in names.items()
        for name in own.values()
    }
    documents = {name: document(name, tables[name], seed) for own in names.values() for seed, name in own.items()}
    return names, documents, tables


def test_recipes_with_several_seeds_on_the_split_are_found() -> None:
    def run(recipe: str, split: str, seed: int, **more: Any) -> Run:
        return Run(recipe=recipe, split=split, seed=seed, **more)

    found = seeds.repeated(
        {
            "a": run("r", "s1", 1),
            "b": run("r", "s1", 2),
            "c": run("r", "s2", 3),
            "d": run("q", "s1", 1),
            "e": run("r", "s1", 4, change={"batch_size": 8}),
        },
        split="s1",
    )
    assert found == {"r": {1: "a", 2: "b"}}


def test_means_and_spreads_are_those_of_the_runs(runs: Any) -> None:
    names, documents, tables = runs
    summary = seeds.summarise(names, documents, tables, "seed1", "kaggle", PARAMS)
    assert (summary.n, summary.split, list(summary.recipes)) == (N, "seed1", ["weak", "strong"])
    for recipe, own in names.items():
        values = [documents[name].metrics["accuracy"].value for name in own.values()]
        accuracy = summary.recipes[recipe].metrics["accuracy"]
        assert accuracy.mean == pytest.approx(np.mean(values), abs=1e-6)
        assert accuracy.sd == pytest.approx(np.std(values, ddof=1), abs=1e-6)
        assert (accuracy.min, accuracy.max, accuracy.n) == (min(values), max(values), 5)
        assert accuracy.low is not None
        assert accuracy.high is not None
        assert accuracy.low < accuracy.mean < accuracy.high
        assert summary.recipes[recipe].stopped_epoch.mean == 13
    (difference,) = summary.differences
    assert (difference.first, difference.second) == ("weak", "strong")
    assert difference.accuracy.high < 0  # 84% against 98%


def test_without_several_seeds_there_is_nothing_to_say() -> None:
    summary = seeds.summarise({}, {}, {}, "seed1", "sample", PARAMS)
    assert (summary.recipes, summary.differences, summary.n) == ({}, (), 0)


def test_images_are_paired_in_a_difference(runs: Any) -> None:
    """Images that are hard for both recipes do not widen their difference: it is narrower than of unpaired means."""
    names, documents, tables = runs
    summary = seeds.summarise(names, documents, tables, "seed1", "kaggle", PARAMS)
    widths = [summary.recipes[name].metrics["accuracy"] for name in names]
    unpaired = np.hypot(*[(width.high or 0) - (width.low or 0) for width in widths])
    (difference,) = summary.differences
    assert difference.accuracy.high - difference.accuracy.low < 0.95 * unpaired


def test_the_interval_holds_both_kinds_of_noise() -> None:
    """Against the variance of a crossed design: runs / R + images / N (+ what both share), known here by design."""
    rng = np.random.default_rng(3)
    n_runs, n_images = 8, 400
    of_runs, of_images = rng.normal(0, 1.0, n_runs), rng.normal(0, 3.0, n_images)
    values = of_runs[:, None] + of_images[None, :]  # [runs, images]

    def statistic(row: np.ndarray[Any, Any]) -> Any:
        return lambda weights: (weights @ row / weights.sum(axis=1))[:, None]

    strata = np.zeros(n_images, np.int64)
    means = crossed_bootstrap([statistic(row) for row in values], strata, 8000, seed=1)[:, 0]
    expected = of_runs.var() / n_runs + of_images.var() / n_images
    assert means.mean() == pytest.approx(values.mean(), abs=0.02)
    assert means.var() == pytest.approx(expected, rel=0.06)
    alone = crossed_bootstrap([statistic(row) for row in values[:1]], strata, 8000, seed=1)[:, 0]
    assert alone.var() == pytest.approx(of_images.var() / n_images, rel=0.06)  # one run: images only


def test_the_same_images_and_other_runs_with_another_salt() -> None:
    values = [lambda weights, value=value: np.full((len(weights), 1), value) for value in (0.0, 1.0, 2.0)]
    strata = np.zeros(10, np.int64)
    first, again, other = (crossed_bootstrap(values, strata, 500, seed=1, salt=salt) for salt in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_runs_on_other_images_or_with_other_hyperparameters_are_refused(runs: Any) -> None:
    names, documents, tables = runs
    moved = {**tables, "weak-seed2": tables["weak-seed2"].replace({"path": {"test000.jpg": "other.jpg"}})}
    with pytest.raises(InputError, match="run weak-seed2 was not scored on the images of the others"):
        seeds.summarise(names, documents, moved, "seed1", "kaggle", PARAMS)
    changed = {**documents, "weak-seed2": document("weak-seed2", tables["weak-seed2"], 2, batch_size=64)}
    with pytest.raises(InputError, match="runs of weak were trained with different hyperparameters"):
        seeds.summarise(names, changed, tables, "seed1", "kaggle", PARAMS)
