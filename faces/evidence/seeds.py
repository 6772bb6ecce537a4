"""How much one run is worth: the same recipe on the same split with several seeds.

Training is chaotic at these learning rates: another seed, and likewise another processor or number of threads, gives
another draw. A recipe's value is therefore its mean over seeds, and its interval holds both the choice of the seeds and
the choice of the test images.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd

from faces.cli import InputError
from faces.evidence.documents import Document, RunMetrics
from faces.evidence.estimate import DIGITS, Estimate, Spread
from faces.evidence.metrics import point_values, subset, weighted_metrics
from faces.evidence.statistics import Array, crossed_bootstrap
from faces.params import Evaluate, Run

METRICS = (  # the paper's, and those that the gate compares
    *("accuracy", "precision_weighted", "recall_weighted", "f1_weighted"),
    *("recall", "specificity", "f1", "auroc", "brier"),
)
METHOD = "bootstrap of seeds and images"


class Recipe(Document):
    """A recipe over its seeds; low and high of the metrics are METHOD's, of the epochs and accuracies Student's."""

    seeds: tuple[int, ...]
    metrics: dict[str, Spread]  # METRICS, on the test images
    train_accuracy: Spread  # at the last epoch, like the next
    validation_accuracy: Spread
    stopped_epoch: Spread

    def estimate(self, name: str, n: int) -> Estimate:
        """Return the mean of a metric, or of train_accuracy or validation_accuracy; n: the images of each run."""
        epoch = {"train_accuracy": self.train_accuracy, "validation_accuracy": self.validation_accuracy}
        spread, method = (epoch[name], "Student's t") if name in epoch else (self.metrics[name], METHOD)
        mean = spread.estimate
        assert mean is not None  # there are several seeds
        return replace(mean, n=n, method=f"mean of {len(self.seeds)} seeds; {method}")


class Difference(Document):
    """Mean test accuracy of the first recipe minus that of the second."""

    first: str
    second: str
    seeds: int  # of each, the fewer if their numbers differ
    accuracy: Estimate
    p: float  # two-sided, of no difference: from the resampled differences, at least one over their number


class Seeds(Document):
    """What metrics/seeds.json holds."""

    source: str
    split: str
    n: int  # test images
    confidence: float
    recipes: dict[str, Recipe]
    differences: tuple[Difference, ...]

    def between(self, recipes: Mapping[str, str]) -> dict[tuple[str, str], Difference]:
        """Return the differences by the names of two runs; recipes: of each run."""
        own = {(found.first, found.second): found for found in self.differences}
        pairs = {(a, b): (recipes[a], recipes[b]) for a in recipes for b in recipes}
        return {runs: own[pair] for runs, pair in pairs.items() if pair in own}


def repeated(runs: Mapping[str, Run], split: str) -> dict[str, dict[int, str]]:
    """Return recipe -> seed -> name of the run, of the recipes that have several seeds on this split."""
    found: dict[str, dict[int, str]] = {}
    for name, run in runs.items():
        if run.split == split and run.change is None:
            found.setdefault(run.recipe, {}).setdefault(run.seed, name)
    return {recipe: seeds for recipe, seeds in found.items() if len(seeds) > 1}


def summarise(
    names: Mapping[str, Mapping[int, str]],
    documents: Mapping[str, RunMetrics],
    predictions: Mapping[str, pd.DataFrame],
    split: str,
    source: str,
    params: Evaluate,
) -> Seeds:
    """Return each recipe over its seeds, and the differences between recipes; none if no recipe has several.

    names: recipe -> seed -> run, as `repeated` returns them; source: kaggle, sample or own.
    predictions: each run's, with columns path, subset, y_true, y_score. Errors: InputError where runs differ in their
    images or the runs of a recipe in their hyperparameters.
    """
    images = _test_paths(next(iter(predictions.values()))) if predictions else pd.Series(dtype=str)
    for name, document in documents.items():
        if document.source != source or not images.equals(_test_paths(predictions[name])):
            raise InputError(f"run {name} was not scored on the images of the others; run `dvc repro` again")
    recipes: dict[str, Recipe] = {}
    drawn: dict[str, Array] = {}  # resampled mean accuracies
    for salt, (recipe, seeds) in enumerate(names.items()):
        own = {seed: documents[name] for seed, name in sorted(seeds.items())}
        for document in own.values():
            if document.training.recipe != next(iter(own.values())).training.recipe:
                raise InputError(f"runs of {recipe} were trained with different hyperparameters; run `dvc repro` again")
        scored = [subset(predictions[seeds[seed]], "test") for seed in own]
        statistics = [weighted_metrics(y_true, y_score, METRICS) for y_true, y_score in scored]
        means = crossed_bootstrap(statistics, scored[0][0], params.resamples, params.seed, salt)
        values = [point_values(y_true, y_score) for y_true, y_score in scored]
        drawn[recipe] = means[:, 0]
        recipes[recipe] = Recipe(
            seeds=tuple(own),
            metrics={
                metric: _with_interval([value[metric] for value in values], means[:, column], params.confidence)
                for column, metric in enumerate(METRICS)
            },
            train_accuracy=Spread.of([d.training.at_stop.train_accuracy for d in own.values()], params.confidence),
            validation_accuracy=Spread.of([d.training.at_stop.val_accuracy for d in own.values()], params.confidence),
            stopped_epoch=Spread.of([d.training.stopped_epoch for d in own.values()], params.confidence),
        )
    return Seeds(
        source=source,
        split=split,
        n=len(images),
        confidence=params.confidence,
        recipes=recipes,
        differences=tuple(_difference(a, b, recipes, drawn, len(images), params) for a, b in combinations(recipes, 2)),
    )


def _difference(
    first: str, second: str, recipes: Mapping[str, Recipe], drawn: Mapping[str, Array], n: int, params: Evaluate
) -> Difference:
    value = recipes[first].metrics["accuracy"].mean - recipes[second].metrics["accuracy"].mean
    differences = drawn[first] - drawn[second]
    tail = min((differences <= 0).mean(), (differences >= 0).mean())
    return Difference(
        first=first,
        second=second,
        seeds=min(len(recipes[first].seeds), len(recipes[second].seeds)),
        accuracy=Estimate.rounded(value, _ends(differences, params.confidence), n, METHOD),
        p=round(float(np.clip(2 * tail, 1 / params.resamples, 1)), DIGITS),
    )


def _test_paths(predictions: pd.DataFrame) -> pd.Series:
    paths: pd.Series = predictions.loc[predictions["subset"] == "test", "path"].sort_values(ignore_index=True)
    return paths


def _with_interval(values: list[float], means: Array, confidence: float) -> Spread:
    low, high = _ends(means, confidence)
    return replace(Spread.of(values, confidence), low=round(low, DIGITS), high=round(high, DIGITS))


def _ends(drawn: Array, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
