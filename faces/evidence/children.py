"""How much of the accuracy is a child seen in training: splits that keep children apart, beside ordinary ones.

Held-out images are those of the validation and the test subset. An image is held out by several runs; intervals
therefore take the groups of children, not the images, for independent.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from faces.evidence.documents import Document
from faces.evidence.estimate import Estimate, Spread
from faces.evidence.metrics import THRESHOLD, point_values, subset
from faces.evidence.statistics import Array, bootstrap
from faces.naming import LABELS
from faces.params import Evaluate, Run, Split

ORDINARY = "duplicates"  # the groups of an ordinary split
METRICS = ("accuracy", "recall", "specificity", "auroc")
STEP = 0.05  # of the distribution
BANDS = (0.0, 0.5, 0.6, 0.75, 1.0)  # of the similarity to the nearest training face


class Band(Document):
    """Held-out images of one class whose nearest training face has a similarity in [low, high).

    low and high are None for images without a face. times: how often they were held out; right: how often they were
    classified right, for Down syndrome the recall, for healthy the specificity; its n is that of the images.
    """

    low: float | None
    high: float | None
    times: int
    right: Estimate


class Kind(Document):
    """A recipe's runs on splits that keep one kind of groups together, by the splits' seeds.

    seen and unseen: by setting, then class: images with a training image in their group, and the others.
    """

    runs: dict[str, str]
    metrics: dict[str, Spread]  # METRICS, on the test subset
    by_similarity: dict[str, tuple[Band, ...]]  # by class
    distribution: dict[str, tuple[int, ...]]  # by class: times held out, by similarity in steps of STEP from 0 to 1
    seen: dict[str, dict[str, Band]]
    unseen: dict[str, dict[str, Band]]


class Change(Document):
    """A kind's value minus that of the ordinary splits.

    by_split: the metrics of the test subsets of splits with the same seed. same_images: of the images that were held
    out by splits of both kinds, the change in how often they were classified right; their classes count alike.
    """

    by_split: dict[str, Spread]
    same_images: dict[str, Estimate]


class Recipe(Document):
    """One recipe on several kinds of splits; changes: by kind."""

    kinds: dict[str, Kind]
    changes: dict[str, Change]


class Children(Document):
    """What metrics/children.json holds."""

    source: str
    confidence: float
    n: int
    without_a_face: int
    step: float
    recipes: dict[str, Recipe]


def runs_by_kind(runs: Mapping[str, Run], splits: Mapping[str, Split]) -> dict[str, dict[str, dict[str, str]]]:
    """Return by recipe, kind of groups and seed of the split the names of the runs that are on comparable splits.

    Runs that change their recipe are left out, and of several seeds of training all but the first.
    """
    found: dict[str, dict[str, dict[str, str]]] = {}
    for name, run in runs.items():
        split = splits[run.split]
        if run.change is None and split.scheme == "stratified":
            kinds = found.setdefault(run.recipe, {})
            kinds.setdefault(split.groups, {}).setdefault(str(split.seed), name)
    return {recipe: kinds for recipe, kinds in found.items() if max(map(len, kinds.values())) > 1 or len(kinds) > 1}


def summarise(
    runs: Mapping[str, Mapping[str, str]],
    predictions: Mapping[str, pd.DataFrame],
    images: pd.DataFrame,
    settings: Sequence[str],
    evaluate: Evaluate,
) -> Recipe:
    """Return what one recipe's runs say, by kind and seed of their splits (`runs_by_kind`).

    predictions, by run: columns path, subset, y_true, y_score, nearest (similarity to the nearest training face of
    the class, NaN without a face), and seen_SETTING (has its group a training image?) for each of `settings`;
    images: index path, column group, the group of children that is taken for independent.
    """
    scored = {name: _scored(rows, images) for name, rows in predictions.items()}
    kinds = {kind: _kind(by_seed, predictions, scored, settings, evaluate.confidence) for kind, by_seed in runs.items()}
    changes = {
        kind: _change(runs[ORDINARY], by_seed, predictions, scored, evaluate)
        for kind, by_seed in runs.items()
        if kind != ORDINARY and ORDINARY in runs
    }
    return Recipe(kinds=kinds, changes=changes)


def _scored(rows: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    right = (rows.y_score >= THRESHOLD) == (rows.y_true == 1)
    return rows.assign(right=right.astype(float), group=rows.path.map(images.group))


def _kind(
    by_seed: Mapping[str, str],
    predictions: Mapping[str, pd.DataFrame],
    scored: Mapping[str, pd.DataFrame],
    settings: Sequence[str],
    confidence: float,
) -> Kind:
    values = [point_values(*subset(predictions[name], "test")) for name in by_seed.values()]
    pooled = pd.concat([scored[name] for name in by_seed.values()])
    classes = {label: pooled[pooled.y_true == y_true] for y_true, label in enumerate(LABELS)}
    seen: dict[bool, dict[str, dict[str, Band]]] = {
        which: {
            setting: {
                label: _band(rows[rows[f"seen_{setting}"] == which], None, None, confidence)
                for label, rows in classes.items()
            }
            for setting in settings
        }
        for which in (True, False)
    }
    return Kind(
        runs=dict(by_seed),
        metrics={metric: Spread.of([found[metric] for found in values], confidence) for metric in METRICS},
        by_similarity={label: _bands(rows, confidence) for label, rows in classes.items()},
        distribution={
            label: tuple(np.histogram(rows.nearest.dropna().clip(0, 1), _steps())[0].tolist())
            for label, rows in classes.items()
        },
        seen=seen[True],
        unseen=seen[False],
    )


def _steps() -> Array:
    return np.linspace(0, 1, round(1 / STEP) + 1)


def _bands(rows: pd.DataFrame, confidence: float) -> tuple[Band, ...]:
    """Return the bands of BANDS, open at both ends, and one of images without a face if there are any."""
    place = np.digitize(rows.nearest.fillna(0), BANDS[1:-1])  # of each row
    known = rows.nearest.notna()
    bands = [
        _band(rows[known & (place == number)], low, high, confidence)
        for number, (low, high) in enumerate(pairwise(BANDS))
    ]
    return (*bands, _band(rows[~known], None, None, confidence)) if not known.all() else tuple(bands)


def _band(rows: pd.DataFrame, low: float | None, high: float | None, confidence: float) -> Band:
    by_group = rows.groupby("group").right
    right, times = (np.asarray(found, np.float64) for found in (by_group.sum(), by_group.size()))
    estimate = clustered(right, times, rows.path.nunique(), confidence)
    return Band(low=low, high=high, times=len(rows), right=estimate)


def clustered(right: Array, times: Array, n: int, confidence: float) -> Estimate:
    """Return the share right / times over groups [G] of n images, with Wilson's interval at the effective sample size.

    That size is what a simple random sample would need for the variance between the groups; where all are right, or
    none, the number of groups.
    Dean, N., Pagano, M. (2015). Evaluating confidence interval methods for binomial proportions in clustered surveys.
    Journal of Survey Statistics and Methodology 3, 484-503.
    """
    from statsmodels.stats.proportion import proportion_confint

    method = "Wilson at the effective sample size, groups of children independent"
    groups, total = len(times), float(np.sum(times))
    if groups == 0:
        return Estimate.rounded(0.0, (0.0, 1.0), 0, method)
    share = float(np.sum(right)) / total
    variance = groups / max(groups - 1, 1) * float(((right - share * times) ** 2).sum()) / total**2
    effective = min(share * (1 - share) / variance, total) if variance > 0 else float(groups)
    low, high = proportion_confint(share * effective, effective, 1 - confidence, "wilson")
    return Estimate.rounded(share, (float(low), float(high)), n, method)


def _change(
    ordinary: Mapping[str, str],
    other: Mapping[str, str],
    predictions: Mapping[str, pd.DataFrame],
    scored: Mapping[str, pd.DataFrame],
    evaluate: Evaluate,
) -> Change:
    seeds = [seed for seed in ordinary if seed in other]
    differences = []
    for seed in seeds:
        before, after = (point_values(*subset(predictions[names[seed]], "test")) for names in (ordinary, other))
        differences.append({metric: after[metric] - before[metric] for metric in METRICS})
    pooled = [pd.concat([scored[names[seed]] for seed in seeds]) for names in (ordinary, other)]
    return Change(
        by_split={
            metric: Spread.of([found[metric] for found in differences], evaluate.confidence) for metric in METRICS
        },
        same_images=_same_images(pooled[0], pooled[1], evaluate),
    )


def _same_images(before: pd.DataFrame, after: pd.DataFrame, evaluate: Evaluate) -> dict[str, Estimate]:
    """Return the mean change of the images' own shares of right answers; accuracy is the mean of both classes."""
    shares = [rows.groupby("path").right.mean() for rows in (before, after)]
    about = before.drop_duplicates("path").set_index("path")[["y_true", "group"]]
    images = about.assign(change=shares[1] - shares[0]).dropna(subset="change")
    by_group = images.groupby(["y_true", "group"]).change.agg(["sum", "size"]).reset_index()
    classes = [(by_group.y_true == y_true).to_numpy() for y_true in (1, 0)]
    if not all(mine.any() for mine in classes):
        return {}
    sums, counts = by_group["sum"].to_numpy(float), by_group["size"].to_numpy(float)

    def statistic(weights: Array) -> Array:
        of_class = [(weights[:, mine] @ sums[mine]) / (weights[:, mine] @ counts[mine]) for mine in classes]
        return np.stack([np.mean(of_class, axis=0), *of_class], axis=1)

    strata = by_group.y_true.to_numpy(np.int64)
    low, high = bootstrap(statistic, strata, evaluate.confidence, evaluate.resamples, evaluate.seed)
    value = statistic(np.ones((1, len(strata))))[0]
    n = (len(images), *(int(counts[mine].sum()) for mine in classes))
    method = f"BCa bootstrap of groups of children, {evaluate.resamples} resamples"
    return {
        name: Estimate.rounded(float(value[i]), (float(low[i]), float(high[i])), n[i], method)
        for i, name in enumerate(("accuracy", "recall", "specificity"))
    }
