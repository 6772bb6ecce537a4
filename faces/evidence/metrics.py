"""Metrics with intervals, from y_true (0 healthy, 1 Down syndrome) and y_score (the probability of 1).

`evaluate_predictions` returns what a run's file in metrics/ holds, `curves` what its plots show.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from faces.cli import InputError
from faces.evidence.documents import (
    ConfusionMatrix,
    Epoch,
    Finished,
    Images,
    OperatingPoint,
    RunMetrics,
    Settings,
    Training,
    Validation,
    Weights,
)
from faces.evidence.estimate import DIGITS, Estimate
from faces.evidence.statistics import Array, bootstrap, wilson
from faces.naming import LABELS
from faces.params import Evaluate

Labels = npt.NDArray[np.int64]

ROUNDED = ("at_best", "at_stop", "finished")  # parts of a run's record
THRESHOLD = 0.5
BINS = 10  # of the calibration error and curve, of equal width
WORDS = ("healthy", "Down syndrome")
COLUMNS = ("path", "subset", "y_true", "y_score")
METRICS = (  # without a suffix: of the Down syndrome class; _macro and _weighted: the average of both classes
    "accuracy",
    "precision",
    "recall",
    "f1",
    "specificity",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
    "balanced_accuracy",
    "mcc",
    "auroc",
    "average_precision",
    "brier",
    "ece",
)
PROPORTIONS = ("accuracy", "precision", "recall", "specificity")
BOOTSTRAPPED = tuple(name for name in METRICS if name not in (*PROPORTIONS, "recall_weighted"))


def read_predictions(path: Path) -> pd.DataFrame:
    """Read and check a predictions file; an `InputError` names the file and what is wrong with it."""
    try:
        predictions = pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"{path} not found; run `dvc repro` first") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a CSV file: {' '.join(str(error).split())}") from None
    check_predictions(predictions, str(path))
    return predictions


def check_predictions(predictions: pd.DataFrame, where: str = "predictions") -> None:
    """Raise an `InputError` unless columns and values are as they should be, both classes in both subsets."""
    missing = [column for column in COLUMNS if column not in predictions]
    if missing:
        raise InputError(f"{where}: no column {', '.join(missing)}; needs {', '.join(COLUMNS)}")
    if predictions.empty:
        raise InputError(f"{where}: no rows")
    unknown = sorted(set(predictions["subset"].astype(str)) - {"validation", "test"})
    if unknown:
        raise InputError(f"{where}: subset {unknown[0]!r}; only validation and test are known")
    y_true = pd.to_numeric(predictions["y_true"], errors="coerce")
    y_score = pd.to_numeric(predictions["y_score"], errors="coerce")
    for column, wrong in (("y_true", ~y_true.isin([0, 1])), ("y_score", ~y_score.between(0, 1))):
        if wrong.any():
            row = predictions[wrong.to_numpy()].iloc[0]
            need = "0 or 1" if column == "y_true" else "a number from 0 to 1"
            raise InputError(f"{where}: {column} of {row['path']} is {row[column]}; must be {need}")
    twice = predictions.loc[predictions.duplicated("path"), "path"]
    if not twice.empty:
        raise InputError(f"{where}: {twice.iloc[0]} occurs twice")
    for subset in ("validation", "test"):
        for label, word in enumerate(WORDS):
            if not ((predictions["subset"] == subset) & (y_true == label)).any():
                raise InputError(f"{where}: no {word} image in the {subset} subset; metrics need both classes")


def evaluate_predictions(predictions: pd.DataFrame, params: Evaluate, run: dict[str, Any]) -> RunMetrics:
    """Return the metrics of one run.

    predictions: columns path, subset, y_true, y_score; run: the run.json beside the model.
    """
    check_predictions(predictions)
    y_true, y_score = subset(predictions, "test")
    y_validation, score_validation = subset(predictions, "validation")
    on_validation = proportions(y_validation, score_validation, THRESHOLD, params.confidence)
    return RunMetrics(
        run=run["run"],
        source=run["source"],
        n=Images(
            test=len(y_true),
            test_down_syndrome=int(y_true.sum()),
            test_healthy=int((1 - y_true).sum()),
            validation=len(y_validation),
            train=run["n_train"],
        ),
        settings=Settings(
            confidence=params.confidence,
            threshold=THRESHOLD,
            resamples=params.resamples,
            seed=params.seed,
            calibration_bins=BINS,
        ),
        metrics=metrics_with_intervals(y_true, y_score, params),
        confusion_matrix=_matrix(y_true, y_score, THRESHOLD),
        validation=Validation(
            metrics={name: on_validation[name] for name in ("accuracy", "recall", "specificity")},
            confusion_matrix=_matrix(y_validation, score_validation, THRESHOLD),
        ),
        operating_point=operating_point(predictions, params),
        training=Training(
            **{key: run[key] for key in Training.model_fields if key in run and key not in ROUNDED},
            at_best=Epoch(**_rounded(run["at_best"])),
            at_stop=Epoch(**_rounded(run["at_stop"])),
            finished=Finished(**_rounded(run["finished"])) if "finished" in run else None,
        ),
        weights=Weights(**run["weights"]),
        model_sha256=run["model_sha256"],
    )


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, DIGITS) for name, value in values.items()}


def headline(document: RunMetrics) -> dict[str, float | int]:
    """Return the few flat numbers for `dvc exp show`, in the order of its columns; accuracy with its interval."""
    accuracy = document.metrics["accuracy"]
    values = {
        **{name: document.metrics[name].value for name in ("accuracy", "recall", "specificity", "auroc", "f1")},
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
    }
    rounded: dict[str, float | int] = {name: round(value, 4) for name, value in values.items()}
    counts = {"n_test": document.n.test, "n_test_down_syndrome": document.n.test_down_syndrome}
    return rounded | counts | {"epochs": document.training.stopped_epoch}


def subset(predictions: pd.DataFrame, name: str) -> tuple[Labels, Array]:
    """Return y_true [N] and y_score [N] of one subset, sorted by path."""
    rows = predictions[predictions["subset"] == name].sort_values("path")
    return rows["y_true"].to_numpy(np.int64), rows["y_score"].to_numpy(np.float64)


def confusion(y_true: Labels, y_score: Array, threshold: float) -> tuple[int, int, int, int]:
    """Return tn, fp, fn, tp where y_score >= threshold counts as Down syndrome."""
    positive = y_score >= threshold
    tn, fp, fn, tp = np.bincount(2 * y_true + positive, minlength=4).tolist()
    return tn, fp, fn, tp


def _matrix(y_true: Labels, y_score: Array, threshold: float) -> ConfusionMatrix:
    tn, fp, fn, tp = confusion(y_true, y_score, threshold)
    return ConfusionMatrix(labels=LABELS, matrix=((tn, fp), (fn, tp)))


def point_values(y_true: Labels, y_score: Array) -> dict[str, float]:
    """Return every metric of METRICS at threshold 0.5; a ratio with nothing below the line is 0.

    scikit-learn's, whose user guide gives each formula; calibration error: `calibration_error`.
    """
    from sklearn import metrics as sk

    y_pred = (y_score >= THRESHOLD).astype(np.int64)
    values: dict[str, float] = {"accuracy": sk.accuracy_score(y_true, y_pred)}
    for suffix, average in (("", "binary"), ("_macro", "macro"), ("_weighted", "weighted")):
        precision, recall, f1, _ = sk.precision_recall_fscore_support(y_true, y_pred, average=average, zero_division=0)
        values |= {f"precision{suffix}": precision, f"recall{suffix}": recall, f"f1{suffix}": f1}
    values |= {
        "specificity": sk.recall_score(y_true, y_pred, pos_label=0, zero_division=0),
        "balanced_accuracy": sk.balanced_accuracy_score(y_true, y_pred),
        "mcc": sk.matthews_corrcoef(y_true, y_pred),
        "auroc": sk.roc_auc_score(y_true, y_score),
        "average_precision": sk.average_precision_score(y_true, y_score),
        "brier": sk.brier_score_loss(y_true, y_score),
        "ece": calibration_error(y_true, y_score),
    }
    return {name: float(values[name]) for name in METRICS}


def calibration_error(y_true: Labels, y_score: Array) -> float:
    """Return the expected calibration error over BINS equal bins of y_score, each weighted by its images.

    Naeini, Cooper, Hauskrecht (2015). Obtaining well calibrated probabilities using Bayesian binning. AAAI.
    Here of the probability of Down syndrome, not of the predicted class.
    """
    gaps = np.bincount(_bins(y_score), weights=y_true - y_score, minlength=BINS)
    return float(np.abs(gaps).sum() / len(y_true))


def _bins(y_score: Array) -> Labels:
    return np.minimum((y_score * BINS).astype(np.int64), BINS - 1)


def metrics_with_intervals(y_true: Labels, y_score: Array, params: Evaluate) -> dict[str, Estimate]:
    """Return every metric of METRICS: Wilson intervals for proportions, bootstrap ones for the others."""
    values = point_values(y_true, y_score)
    exact = proportions(y_true, y_score, THRESHOLD, params.confidence)
    exact["recall_weighted"] = exact["accuracy"]  # the same number: each class's recall, weighted by its images
    lows, highs = bootstrap(weighted_metrics(y_true, y_score), y_true, params.confidence, params.resamples, params.seed)
    method = f"BCa bootstrap, stratified by class, {params.resamples} resamples"
    resampled = {
        name: Estimate.rounded(values[name], (float(low), float(high)), len(y_true), method)
        for name, low, high in zip(BOOTSTRAPPED, lows, highs, strict=True)
    }
    return {name: exact[name] if name in exact else resampled[name] for name in METRICS}


def proportions(y_true: Labels, y_score: Array, threshold: float, confidence: float) -> dict[str, Estimate]:
    """Return the metrics that are a count over a count (PROPORTIONS), with Wilson's interval and their own n."""
    tn, fp, fn, tp = confusion(y_true, y_score, threshold)
    counts = {
        "accuracy": (tp + tn, len(y_true)),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
        "specificity": (tn, tn + fp),
    }
    return {name: Estimate.proportion(k, n, confidence) for name, (k, n) in counts.items()}


def weighted_metrics(y_true: Labels, y_score: Array, names: tuple[str, ...] = BOOTSTRAPPED) -> Callable[[Array], Array]:
    """Return a function from weights [R, N] to the metrics of these names [R, M], all resamples at once."""
    order = np.argsort(-y_score, kind="stable")
    y, score = y_true[order].astype(float), y_score[order]
    ends = np.flatnonzero(np.append(np.diff(score) != 0, True))  # last row of each run of equal scores
    predicted = int((score >= THRESHOLD).sum())  # rows before this one count as Down syndrome
    in_bin = np.eye(BINS)[_bins(score)]  # [N, BINS]

    def statistic(weights: Array) -> Array:
        weights = weights[:, order]
        n = weights.sum(axis=1)
        true, false = np.cumsum(weights * y, axis=1), np.cumsum(weights * (1 - y), axis=1)
        positives, negatives = true[:, -1], false[:, -1]
        tp = true[:, predicted - 1] if predicted else np.zeros_like(n)
        fp = false[:, predicted - 1] if predicted else np.zeros_like(n)
        fn, tn = positives - tp, negatives - fp

        precision = np.stack([_ratio(tn, tn + fn), _ratio(tp, tp + fp)])  # [class, R]
        recall = np.stack([_ratio(tn, negatives), _ratio(tp, positives)])
        f1 = np.stack([_ratio(2 * tn, 2 * tn + fn + fp), _ratio(2 * tp, 2 * tp + fn + fp)])
        share = np.stack([negatives, positives]) / n
        mcc = _ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * positives * negatives * (tn + fn)))

        tps = np.pad(true[:, ends], ((0, 0), (1, 0)))  # [R, thresholds + 1], from (0, 0) on
        fps = np.pad(false[:, ends], ((0, 0), (1, 0)))
        area = (np.diff(fps, axis=1) * (tps[:, 1:] + tps[:, :-1])).sum(axis=1) / 2
        steps = np.diff(tps, axis=1) * _ratio(tps[:, 1:], tps[:, 1:] + fps[:, 1:])

        columns = {
            "accuracy": (tp + tn) / n,
            "precision": precision[1],
            "recall": recall[1],
            "specificity": recall[0],
            "recall_weighted": (tp + tn) / n,
            "f1": f1[1],
            "precision_macro": precision.mean(axis=0),
            "recall_macro": recall.mean(axis=0),
            "f1_macro": f1.mean(axis=0),
            "precision_weighted": (share * precision).sum(axis=0),
            "f1_weighted": (share * f1).sum(axis=0),
            "balanced_accuracy": recall.mean(axis=0),
            "mcc": mcc,
            "auroc": _ratio(area, positives * negatives),
            "average_precision": _ratio(steps.sum(axis=1), positives),
            "brier": weights @ (y - score) ** 2 / n,
            "ece": np.abs(weights @ (in_bin * (y - score)[:, None])).sum(axis=1) / n,
        }
        return np.stack([columns[name] for name in names], axis=1)

    return statistic


def _ratio(over: Array, under: Array) -> Array:
    return np.divide(over, under, out=np.zeros_like(over), where=under != 0)


def threshold_for_recall(y_true: Labels, y_score: Array, target: float) -> float:
    """Return the highest threshold at which at least `target` of the Down syndrome images are found."""
    found = np.sort(y_score[y_true == 1])[::-1]
    needed = max(1, int(np.ceil(target * len(found) - 1e-9)))
    return float(found[needed - 1])


def operating_point(predictions: pd.DataFrame, params: Evaluate) -> OperatingPoint:
    """Return the threshold that reaches the target recall on the validation subset, and what it does on test.

    The test intervals are for this threshold as it stands; that another validation subset would have chosen
    another one is not in them.
    """
    y_validation, score_validation = subset(predictions, "validation")
    y_true, y_score = subset(predictions, "test")
    threshold = threshold_for_recall(y_validation, score_validation, params.recall)
    validation = proportions(y_validation, score_validation, threshold, params.confidence)
    test = proportions(y_true, y_score, threshold, params.confidence)
    return OperatingPoint(
        target_recall=params.recall,
        threshold=threshold,
        validation={name: validation[name] for name in ("recall", "specificity")},
        test=test | {"false_negatives": _missed(test["recall"]), "false_positives": _missed(test["specificity"])},
        confusion_matrix=_matrix(y_true, y_score, threshold),
    )


def _missed(found: Estimate) -> Estimate:
    """Turn the share of a class that was found into the number of images that were not."""
    n = found.n
    missed = round(n * (1 - found.value))
    return Estimate(missed, round(n * (1 - found.high), 2), round(n * (1 - found.low), 2), n, found.method)


def curves(predictions: pd.DataFrame, confidence: float = 0.95) -> dict[str, pd.DataFrame]:
    """Return the plots' tables by file stem, all of the test subset unless a column says validation.

    confusion: actual, predicted (one row per image, in words); roc: fpr, tpr; pr: recall, precision;
    calibration: predicted, observed, low, high, n (bins that hold an image);
    operating_point: threshold, recall, specificity, validation_recall, validation_specificity.
    """
    from sklearn import metrics as sk

    check_predictions(predictions)
    y_true, y_score = subset(predictions, "test")
    words = np.array(WORDS)
    fpr, tpr, _ = sk.roc_curve(y_true, y_score)
    precision, recall, _ = sk.precision_recall_curve(y_true, y_score)
    tables = {
        "confusion": pd.DataFrame(
            {"actual": words[y_true], "predicted": words[(y_score >= THRESHOLD).astype(np.int64)]}
        ),
        "roc": pd.DataFrame({"fpr": fpr, "tpr": tpr}),
        "pr": pd.DataFrame({"recall": recall[::-1], "precision": precision[::-1]}),
        "calibration": _calibration(y_true, y_score, confidence),
        "operating_point": _trade_off(predictions),
    }
    return {name: table.round(DIGITS) for name, table in tables.items()}


def _calibration(y_true: Labels, y_score: Array, confidence: float) -> pd.DataFrame:
    rows = []
    bins = _bins(y_score)
    for index in np.unique(bins):
        inside = bins == index
        n, found = int(inside.sum()), int(y_true[inside].sum())
        low, high = wilson(found, n, confidence)
        rows.append((y_score[inside].mean(), found / n, low, high, n))
    return pd.DataFrame(rows, columns=["predicted", "observed", "low", "high", "n"])


def _trade_off(predictions: pd.DataFrame) -> pd.DataFrame:
    thresholds = np.arange(101) / 100
    table = {"threshold": thresholds}
    for name, prefix in (("test", ""), ("validation", "validation_")):
        y_true, y_score = subset(predictions, name)
        positive = y_score >= thresholds[:, None]  # [101, N]
        table[f"{prefix}recall"] = positive[:, y_true == 1].mean(axis=1)
        table[f"{prefix}specificity"] = 1 - positive[:, y_true == 0].mean(axis=1)
    return pd.DataFrame(table)
