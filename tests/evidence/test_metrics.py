"""Metrics, intervals, operating point and curves against plain loops and scikit-learn."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from faces.cli import InputError
from faces.evidence import metrics
from faces.evidence.estimate import Estimate
from faces.params import Evaluate

PARAMS = Evaluate(confidence=0.95, resamples=200, seed=1, recall=0.95)
RUN: dict[str, Any] = {
    "run": "trial1",
    "source": "sample",
    "recipe": {"batch_size": 32, "transforms": {"resize": 224}},
    "split": "seed1",
    "seed": 1,
    "stopped_epoch": 7,
    "best_epoch": 4,
    "n_train": 84,
    "n_validation": 60,
    "device": "cpu",
    "machine": {"processor": "a CPU", "threads": 2, "precision": "bf16"},
    "weights": {"sha256": "0" * 64, "known_as": "random"},
    "model_sha256": "1" * 64,
    "at_best": {"epoch": 4, "train_loss": 0.3, "train_accuracy": 0.9, "val_loss": 0.4, "val_accuracy": 0.8},
    "at_stop": {"epoch": 7, "train_loss": 0.2, "train_accuracy": 0.95, "val_loss": 0.5000001, "val_accuracy": 0.7},
}


def make_predictions(seed: int = 0, test: int = 40, validation: int = 60, signal: float = 1.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n = test + validation
    y_true = np.arange(n) % 2
    y_score = 1 / (1 + np.exp(-rng.normal((2 * y_true - 1) * signal, 1)))
    return pd.DataFrame(
        {
            "path": [f"image_{i:04}.jpg" for i in range(n)],
            "subset": ["test"] * test + ["validation"] * validation,
            "y_true": y_true,
            "y_score": y_score.round(2),  # two digits: many ties
        }
    )


two_classes = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0, 0.1, 0.25, 0.49, 0.5, 0.7, 1])), min_size=2, max_size=30
).filter(lambda rows: len({y for y, _ in rows}) == 2)


def arrays(rows: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([y for y, _ in rows]), np.array([score for _, score in rows], float)


@given(two_classes)
@settings(max_examples=25, deadline=None)
def test_point_values_equal_counting(rows: list[tuple[int, float]]) -> None:
    y_true, y_score = arrays(rows)
    found = metrics.point_values(y_true, y_score)
    tp = sum(y == 1 and s >= 0.5 for y, s in rows)
    fp = sum(y == 0 and s >= 0.5 for y, s in rows)
    fn, tn = sum(y for y, _ in rows) - tp, sum(1 - y for y, _ in rows) - fp
    n = len(rows)

    def ratio(a: float, b: float) -> float:
        return a / b if b else 0.0

    precision, recall = (ratio(tn, tn + fn), ratio(tp, tp + fp)), (ratio(tn, tn + fp), ratio(tp, tp + fn))
    f1 = (ratio(2 * tn, 2 * tn + fp + fn), ratio(2 * tp, 2 * tp + fp + fn))
    share = ((tn + fp) / n, (tp + fn) / n)
    positives, negatives = [s for y, s in rows if y], [s for y, s in rows if not y]
    wins = sum((p > q) + (p == q) / 2 for p in positives for q in negatives)
    average_precision = 0.0
    before = 0.0
    for threshold in sorted({s for _, s in rows}, reverse=True):
        hits, called = sum(p >= threshold for p in positives), sum(s >= threshold for _, s in rows)
        average_precision += (hits / len(positives) - before) * hits / called
        before = hits / len(positives)
    bins: dict[int, list[float]] = {}
    for y, s in rows:
        bins.setdefault(min(int(s * 10), 9), []).append(y - s)
    expected = {
        "accuracy": (tp + tn) / n,
        "precision": precision[1],
        "recall": recall[1],
        "f1": f1[1],
        "specificity": recall[0],
        "precision_macro": sum(precision) / 2,
        "recall_macro": sum(recall) / 2,
        "f1_macro": sum(f1) / 2,
        "precision_weighted": share[0] * precision[0] + share[1] * precision[1],
        "recall_weighted": (tp + tn) / n,
        "f1_weighted": share[0] * f1[0] + share[1] * f1[1],
        "balanced_accuracy": sum(recall) / 2,
        "mcc": ratio(tp * tn - fp * fn, math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))),
        "auroc": wins / len(positives) / len(negatives),
        "average_precision": average_precision,
        "brier": sum((y - s) ** 2 for y, s in rows) / n,
        "ece": sum(abs(sum(gaps)) for gaps in bins.values()) / n,
    }
    assert list(found) == list(metrics.METRICS)
    assert found == pytest.approx(expected, abs=1e-12)


@given(two_classes, st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_weighted_metrics_equal_scikit_learn_on_repeated_rows(rows: list[tuple[int, float]], seed: int) -> None:
    y_true, y_score = arrays(rows)
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(rows)))
    weights[:, [y_true.argmax(), y_true.argmin()]] += 1  # both classes in each resample
    found = metrics.weighted_metrics(y_true, y_score)(weights.astype(float))
    for row, repeats in zip(found, weights, strict=True):
        expected = metrics.point_values(np.repeat(y_true, repeats), np.repeat(y_score, repeats))
        assert row == pytest.approx([expected[name] for name in metrics.BOOTSTRAPPED], abs=1e-12)


def test_intervals_hold_their_values_and_say_n_and_method() -> None:
    y_true, y_score = metrics.subset(make_predictions(), "test")
    found = metrics.metrics_with_intervals(y_true, y_score, PARAMS)
    assert list(found) == list(metrics.METRICS)
    for name, metric in found.items():
        assert metric.low <= metric.value <= metric.high, name
    assert (found["accuracy"].n, found["recall"].n, found["specificity"].n) == (40, 20, 20)
    assert found["precision"].n == (y_score >= 0.5).sum()
    assert found["recall_weighted"] == found["accuracy"]
    assert "200 resamples" in found["auroc"].method
    assert found["accuracy"].method == "Wilson"


def test_a_perfect_model_has_finite_metrics() -> None:
    y_true, y_score = np.array([0, 0, 1, 1]), np.array([0.0, 0.0, 1.0, 1.0])
    found = metrics.metrics_with_intervals(y_true, y_score, PARAMS)
    assert (found["auroc"].low, found["mcc"].value, found["brier"].high) == (1, 1, 0)
    assert found["accuracy"].low < 1  # Wilson: four right out of four are no proof


def test_a_model_that_never_says_down_syndrome_has_precision_zero_of_none() -> None:
    y_true, y_score = np.array([0, 1, 1]), np.array([0.1, 0.2, 0.3])
    precision = metrics.metrics_with_intervals(y_true, y_score, PARAMS)["precision"]
    assert precision == Estimate(value=0, low=0, high=1, n=0, method="Wilson")


def test_document_has_the_promised_shape() -> None:
    predictions = make_predictions()
    found = metrics.evaluate_predictions(predictions, PARAMS, RUN)
    document = json.loads(json.dumps(found.model_dump(), allow_nan=False))
    assert list(document) == [
        "run", "source", "n", "settings", "metrics", "confusion_matrix", "validation", "operating_point",
        "training", "weights", "model_sha256",
    ]  # fmt: skip
    assert document["n"] == {
        "test": 40, "test_down_syndrome": 20, "test_healthy": 20, "validation": 60, "train": 84
    }  # fmt: skip
    assert all(list(metric) == ["value", "low", "high", "n", "method"] for metric in document["metrics"].values())
    test = predictions[predictions["subset"] == "test"]
    matrix = sk.confusion_matrix(test["y_true"], test["y_score"] >= 0.5)
    assert document["confusion_matrix"] == {"labels": ["healthy", "down_syndrome"], "matrix": matrix.tolist()}
    assert list(document["validation"]["metrics"]) == ["accuracy", "recall", "specificity"]
    assert list(document["operating_point"]["validation"]) == ["recall", "specificity"]
    assert list(document["training"]) == [
        "recipe", "split", "seed", "stopped_epoch", "best_epoch", "n_train", "n_validation", "device",
        "machine", "at_best", "at_stop", "finished", "unaligned",
    ]  # fmt: skip
    assert document["training"]["recipe"] == RUN["recipe"]
    assert document["training"]["machine"] == RUN["machine"]
    assert document["training"]["at_stop"] == RUN["at_stop"] | {"val_loss": 0.5}
    assert found == metrics.evaluate_predictions(predictions.sample(frac=1, random_state=1), PARAMS, RUN)


def test_headline_is_flat_and_from_the_document() -> None:
    document = metrics.evaluate_predictions(make_predictions(), PARAMS, RUN)
    headline = metrics.headline(document)
    assert list(headline)[:4] == ["accuracy", "recall", "specificity", "auroc"]  # the first columns of `dvc exp show`
    accuracy = document.metrics["accuracy"]
    assert (headline["accuracy_low"], headline["accuracy_high"]) == (round(accuracy.low, 4), round(accuracy.high, 4))
    assert headline["f1"] == round(document.metrics["f1"].value, 4)
    assert (headline["n_test"], headline["n_test_down_syndrome"], headline["epochs"]) == (
        40,
        document.n.test_down_syndrome,
        7,
    )


@given(two_classes, st.floats(0.01, 1))
@settings(max_examples=40, deadline=None)
def test_threshold_is_the_highest_that_reaches_the_recall(rows: list[tuple[int, float]], target: float) -> None:
    y_true, y_score = arrays(rows)
    threshold = metrics.threshold_for_recall(y_true, y_score, target)
    reaching = [t for t in set(y_score) if sk.recall_score(y_true, y_score >= t) >= target - 1e-9]
    assert threshold == max(reaching)


def test_threshold_for_19_of_20() -> None:  # 0.95 * 20 is 19, in floating point as well
    y_score = np.arange(1, 21) / 100
    assert metrics.threshold_for_recall(np.ones(20, int), y_score, 0.95) == 0.02


def test_operating_point_applies_the_validation_threshold_to_test() -> None:
    predictions = make_predictions(seed=5)
    point = metrics.operating_point(predictions, PARAMS)
    validation = predictions[predictions["subset"] == "validation"]
    test = predictions[predictions["subset"] == "test"]
    called = test["y_score"] >= point.threshold
    assert sk.recall_score(validation["y_true"], validation["y_score"] >= point.threshold) >= 0.95
    (tn, fp), (fn, tp) = sk.confusion_matrix(test["y_true"], called)
    assert point.confusion_matrix.matrix == ((tn, fp), (fn, tp))
    assert point.test["recall"].value == pytest.approx(tp / (tp + fn), abs=1e-6)
    missed = point.test["false_negatives"]
    assert (missed.value, missed.n) == (fn, tp + fn)
    assert missed.low == pytest.approx(missed.n * (1 - point.test["recall"].high), abs=0.01)
    assert point.test["false_positives"].value == fp


def test_curves_agree_with_the_metrics() -> None:
    predictions = make_predictions(seed=2, test=60)
    y_true, y_score = metrics.subset(predictions, "test")
    values = metrics.point_values(y_true, y_score)
    curves = metrics.curves(predictions)
    assert {name: list(table) for name, table in curves.items()} == {
        "confusion": ["actual", "predicted"],
        "roc": ["fpr", "tpr"],
        "pr": ["recall", "precision"],
        "calibration": ["predicted", "observed", "low", "high", "n"],
        "operating_point": ["threshold", "recall", "specificity", "validation_recall", "validation_specificity"],
    }
    assert np.trapezoid(curves["roc"]["tpr"], curves["roc"]["fpr"]) == pytest.approx(values["auroc"], abs=1e-4)
    confusion = curves["confusion"]
    assert (confusion["actual"] == confusion["predicted"]).mean() == values["accuracy"]
    assert set(confusion["actual"]) == {"healthy", "Down syndrome"}
    bins = curves["calibration"]
    gap = (bins["n"] * (bins["predicted"] - bins["observed"]).abs()).sum() / 60
    assert gap == pytest.approx(values["ece"], abs=1e-5)
    at_half = curves["operating_point"].set_index("threshold").loc[0.5]
    assert at_half["recall"] == pytest.approx(values["recall"], abs=1e-6)
    assert at_half["specificity"] == pytest.approx(values["specificity"], abs=1e-6)
    assert curves["pr"]["recall"].is_monotonic_increasing
    for table in curves.values():
        assert not table.isin([np.inf, -np.inf]).any().any()
        assert not table.isna().any().any()


def spoil(column: str, value: object) -> pd.DataFrame:
    predictions = make_predictions().astype({column: object})
    predictions.loc[3, column] = value
    return predictions


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (make_predictions().drop(columns=["y_score"]), "no column y_score"),
        (make_predictions().iloc[:0], "no rows"),
        (spoil("y_score", np.nan), r"y_score of image_0003.jpg is nan; must be a number from 0 to 1"),
        (spoil("y_score", 1.01), "y_score of image_0003.jpg is 1.01"),
        (spoil("y_score", "high"), "y_score of image_0003.jpg is high"),
        (spoil("y_true", 2), "y_true of image_0003.jpg is 2; must be 0 or 1"),
        (spoil("y_true", np.nan), "y_true of image_0003.jpg is nan"),
        (spoil("subset", "training"), "subset 'training'"),
        (spoil("path", "image_0002.jpg"), "image_0002.jpg occurs twice"),
        (make_predictions().query("y_true == 1 or subset == 'validation'"), "no healthy image in the test subset"),
        (make_predictions().query("y_true == 0 or subset == 'test'"), "no Down syndrome image in the validation"),
    ],
)
def test_bad_predictions_are_one_clear_line(predictions: pd.DataFrame, message: str) -> None:
    for use in (lambda: metrics.evaluate_predictions(predictions, PARAMS, RUN), lambda: metrics.curves(predictions)):
        with pytest.raises(InputError, match=message) as error:
            use()
        assert "\n" not in str(error.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    for path, message in ((tmp_path / "absent.csv", "absent.csv not found"), (empty, "empty.csv is not a CSV file")):
        with pytest.raises(InputError, match=message):
            metrics.read_predictions(path)
