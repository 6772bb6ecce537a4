"""Two results of the same run, from two revisions or two machines: what changed, and does chance explain it?

There are two kinds of chance: which images are tested, and how a run differs from the next (another seed, another
processor). On the same test images a paired test weighs the first, and a change must also stand out from the second:
its p-value is the larger of the two (intersection-union test, Berger 1982). On other test images one interval of the
difference holds both. All p-values are two-sided and Holm-corrected over everything that changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from faces.cli import InputError
from faces.evidence import metrics, statistics
from faces.evidence.statistics import Interval
from faces.params import load
from faces.section import Section

Labels = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Pair = tuple[Labels, Scores, Scores]  # y_true, y_score before, y_score now; each [N], the same images

METRICS = ("accuracy", "recall", "specificity", "f1", "auroc", "brier")
LOWER_IS_BETTER = ("brier",)
SHARES = {"accuracy": (0, 1), "recall": (1,), "specificity": (0,)}  # of right answers among these classes


class Settings(Section):
    """When a metric has changed, and not by chance."""

    alpha: Annotated[float, Field(gt=0, lt=1)]
    permutations: Annotated[int, Field(ge=100)]


def load_settings() -> Settings:
    """Read ci/gate.yaml; an `InputError` names each key that is wrong."""
    return load(Settings, Path("ci/gate.yaml"))


@dataclass(frozen=True)
class Spread:
    """The standard deviation of a metric between runs of one recipe, and the number of runs it comes from."""

    sd: float
    n: int


Spreads = dict[str, dict[str, Spread]]  # recipe -> metric -> spread


@dataclass(frozen=True)
class Result:
    """A run's result: METRICS with intervals of one confidence, and its predictions (None where they are not kept)."""

    run: str
    metrics: dict[str, dict[str, Any]]
    confidence: float
    predictions: pd.DataFrame | None


@dataclass(frozen=True)
class Change:
    """One metric of one run in two results; `change` is positive where it got better, n counts today's images."""

    run: str
    metric: str
    base: float
    now: float
    n: int
    change: float
    paired: bool  # were the same images tested?
    p: float | None = None  # None where nothing changed


def result(run: str, document: Any, predictions: pd.DataFrame | None, where: str) -> Result:
    """Return a run's result from its metrics document; `InputError` names what the document lacks.

    Predictions must give the document's values.
    """
    try:
        found = {
            name: {key: document["metrics"][name][key] for key in ("value", "low", "high", "n")} for name in METRICS
        }
        confidence = float(document["settings"]["confidence"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{where} has no {error if isinstance(error, KeyError) else 'metrics'}") from None
    for name, metric in found.items():
        for key, value in metric.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise InputError(f"{where}: {key} of {name} is {value!r}, not a number")
    if predictions is not None:
        values = metrics.point_values(*metrics.subset(predictions, "test"))
        for name, metric in found.items():
            if abs(values[name] - metric["value"]) > 2e-6:
                gives = f"the predictions give {values[name]:.6f}"
                raise InputError(f"{where}: {name} is {metric['value']}, but {gives}; run `dvc repro`")
    return Result(run, found, confidence, predictions)


def spreads(document: Any, where: str) -> Spreads:
    """Return what metrics/seeds.json (faces/evidence/seeds.py) says of each recipe's METRICS."""
    try:
        return {
            recipe: {
                metric: Spread(float(found["sd"]), int(found["n"]))
                for metric, found in summary["metrics"].items()
                if metric in METRICS and found["sd"] is not None
            }
            for recipe, summary in document["recipes"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where} is not the spread between runs: {error!r}; run `dvc repro`") from None


def between_runs(measured: Sequence[Spreads], recipe: str | None) -> dict[str, Spread]:
    """Return the spread between runs of a recipe, as the first of `measured` that has the recipe gives it.

    Of a recipe that none of them has, each metric's largest spread in the first.
    """
    for recipes in measured:
        if recipe in recipes:
            return recipes[recipe]
    others = [found for recipes in measured[:1] for found in recipes.values()]
    return {
        metric: max((found[metric] for found in others if metric in found), key=lambda spread: spread.sd)
        for metric in METRICS
        if any(metric in found for found in others)
    }


def compare(base: Result, now: Result, noise: Mapping[str, Spread], permutations: int) -> list[Change]:
    """Return the change of each metric, with the p-value that chance alone makes one as large, uncorrected."""
    if base.confidence != now.confidence:
        raise InputError(
            f"{now.run}: its intervals are of confidence {base.confidence} and {now.confidence}; evaluate with one"
        )
    pair = _pair(base, now)
    changes = []
    for name in METRICS:
        before, after = base.metrics[name], now.metrics[name]
        sign = -1 if name in LOWER_IS_BETTER else 1
        change = round(sign * (after["value"] - before["value"]), 9) + 0.0
        row = Change(now.run, name, before["value"], after["value"], after["n"], change, pair is not None)
        if change:
            spread = noise.get(name)
            if pair is None:
                p = unpaired_p(before, after, now.confidence, spread)
            else:
                p = max(paired_p(name, pair, permutations), 0.0 if spread is None else run_p(change, spread))
            row = replace(row, p=p)
        changes.append(row)
    return changes


def corrected(changes: list[Change]) -> list[Change]:
    """Return the changes with their p-values Holm-corrected over all that have one."""
    p_values = iter(statistics.holm([row.p for row in changes if row.p is not None]))
    return [row if row.p is None else replace(row, p=next(p_values)) for row in changes]


def _pair(base: Result, now: Result) -> Pair | None:
    """Return both results' scores of the test images, or None where they are not known to be of the same images."""
    if base.predictions is None or now.predictions is None:
        return None
    there, here = (table[table["subset"] == "test"] for table in (base.predictions, now.predictions))
    if not (np.array_equal(there["path"], here["path"]) and np.array_equal(there["y_true"], here["y_true"])):
        return None
    return here["y_true"].to_numpy(np.int64), there["y_score"].to_numpy(float), here["y_score"].to_numpy(float)


def paired_p(name: str, pair: Pair, permutations: int) -> float:
    """Return the p-value that a metric changed, from both results' scores of the same images.

    Shares of right answers: exact McNemar. Others: the permutation test in which the two scores of each image
    change places at random (Good, P. (2005). Permutation, Parametric and Bootstrap Tests of Hypotheses).
    """
    from scipy.stats import permutation_test

    y_true, before, now = pair
    if name in SHARES:
        rows = np.isin(y_true, SHARES[name])
        was_right, is_right = (((score >= metrics.THRESHOLD) == y_true)[rows] for score in (before, now))
        return statistics.mcnemar(int((was_right & ~is_right).sum()), int((is_right & ~was_right).sum()))

    def change(first: Scores, second: Scores, axis: int) -> Scores:
        old, new = (SCORERS[name](y_true, np.moveaxis(scores, axis, -1)) for scores in (first, second))
        return np.asarray(np.round(new - old, 12), dtype=np.float64)  # rounded: equal changes compare as equal

    result = permutation_test((before, now), change, permutation_type="samples", n_resamples=permutations, rng=0)
    return float(result.pvalue)


def run_p(change: float, spread: Spread) -> float:
    """Return the p-value of a change between two single runs, if runs differ by `spread`: Student's t."""
    from scipy.stats import t

    return float(2 * t.sf(abs(change) / (spread.sd * 2**0.5), spread.n - 1)) if spread.sd else 0.0


def unpaired_p(before: dict[str, Any], after: dict[str, Any], confidence: float, spread: Spread | None) -> float:
    """Return the p-value of a change between results on other images, from each metric's own interval.

    The interval of the difference is MOVER's; for a share of right answers it is Newcombe's, and with `spread` each of
    the two runs adds what it may lie off its recipe's mean.
    """
    from scipy.stats import t

    values = [after["value"], before["value"]]
    intervals: list[Interval] = [(metric["low"], metric["high"]) for metric in (after, before)]
    coefficients = [1.0, -1.0]
    if spread is not None:
        half = float(t.ppf(0.5 + confidence / 2, spread.n - 1)) * spread.sd
        values, intervals, coefficients = [*values, 0, 0], [*intervals, *[(-half, half)] * 2], [*coefficients, 1, -1]
    interval = statistics.combine(coefficients, values, intervals)
    return statistics.p_from_interval(after["value"] - before["value"], interval, confidence)


def machines_differ(before: Any, after: Any) -> str:
    """Return in words how the machines differ that two metrics documents were made on; empty if they do not.

    Also empty if neither document says what it was made on.
    """
    one, other = (_flat(document.get("training", {}).get("machine") or {}) for document in (before, after))
    if bool(one) != bool(other):
        return f"{'the base' if other else 'the present one'} does not say what it was made on"
    keys = dict.fromkeys([*one, *other])
    return "; ".join(f"{key}: {one.get(key)}, now {other.get(key)}" for key in keys if one.get(key) != other.get(key))


def _flat(facts: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def auroc(y_true: Labels, y_score: Scores) -> Scores:
    """Return the area under the ROC curve [...] of scores [..., N], from the ranks (Mann-Whitney)."""
    from scipy.stats import rankdata

    positives, negatives = int((y_true == 1).sum()), int((y_true == 0).sum())
    ranks = rankdata(y_score, axis=-1)[..., y_true == 1].sum(axis=-1)
    return np.asarray((ranks - positives * (positives + 1) / 2) / (positives * negatives), dtype=np.float64)


def brier(y_true: Labels, y_score: Scores) -> Scores:
    """Return the mean squared error [...] of scores [..., N]."""
    return np.asarray(((y_score - y_true) ** 2).mean(axis=-1), dtype=np.float64)


def f1(y_true: Labels, y_score: Scores) -> Scores:
    """Return the Down syndrome class's F1 [...] of scores [..., N]."""
    y_pred = y_score >= metrics.THRESHOLD
    right, called = (y_pred & (y_true == 1)).sum(axis=-1), y_pred.sum(axis=-1)
    return np.asarray(2 * right / (called + y_true.sum()), dtype=np.float64)


SCORERS = {"auroc": auroc, "brier": brier, "f1": f1}
