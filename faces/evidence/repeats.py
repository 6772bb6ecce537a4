"""One recipe on several splits: how far its results spread, and which images it gets wrong wherever they are held out.

Splits overlap, so the interval of a mean holds the noise of training and of the choice of images, not that of other
data.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from faces.cli import InputError
from faces.evidence.documents import Document, RunMetrics
from faces.evidence.estimate import Estimate, Spread
from faces.evidence.metrics import THRESHOLD, Labels, proportions, subset
from faces.evidence.statistics import Array
from faces.naming import LABELS
from faces.params import Run, Split

TIMES = 2
SURE = 0.9  # mean probability of the other class


class OnSplit(Document):
    """A run on one split: metrics of its test subset.

    They are accuracy, recall, specificity and auroc; accuracy_chosen, at the threshold that is most accurate on its
    validation subset; recall_at_point and specificity_at_point, at the operating point.
    """

    run: str
    metrics: dict[str, Estimate]
    threshold_chosen: float


class Again(Document):
    """Images that were held out TIMES times or more, and how many of them were wrong every time, or sometimes."""

    n: int
    always_wrong: int
    sometimes_wrong: int


class Suspect(Document):
    """An image whose mean score is far on the other class's side, with the mean probability of that class."""

    path: str
    label: str
    times_held_out: int
    other_class: float


class Repeats(Document):
    """One recipe with one seed on several splits.

    held_out: of the images that at least one model scored without having been trained on them, validation and test
    alike, the share that the mean of these scores puts on the right side; suspects: surest first.
    """

    source: str
    seed: int
    confidence: float
    target_recall: float
    splits: dict[str, OnSplit]
    over_splits: dict[str, Spread]
    held_out: Estimate
    again: Again
    suspects: tuple[Suspect, ...]


def repeated(runs: Mapping[str, Run], splits: Mapping[str, Split]) -> dict[str, dict[str, str]]:
    """Return the recipes that have runs on several splits with the same seed, and these runs' names by split.

    Runs that change their recipe are left out. A recipe that is repeated with several seeds has an entry for each,
    and so has one on splits that keep other groups than duplicates together: RECIPE-GROUPS.
    """
    groups: dict[tuple[str, int], dict[str, str]] = {}
    for name, run in runs.items():
        if run.change is None:
            kind = splits[run.split].groups
            key = run.recipe if kind == "duplicates" else f"{run.recipe}-{kind}"
            groups.setdefault((key, run.seed), {})[run.split] = name
    found: dict[str, dict[str, str]] = {}
    for (key, seed), on_splits in groups.items():
        if len(on_splits) > 1:
            found[f"{key}-seed{seed}" if key in found else key] = on_splits
    return found


def summarise(
    documents: Mapping[str, RunMetrics], predictions: Mapping[str, pd.DataFrame], confidence: float
) -> Repeats:
    """Return the summary of one recipe's runs, by split.

    predictions: columns path, subset, y_true, y_score. Errors: InputError where runs differ in more than their split.
    """
    first = next(iter(documents.values()))
    for split, document in documents.items():
        for key in ("recipe", "seed"):
            if getattr(document.training, key) != getattr(first.training, key):
                raise InputError(f"the run on split {split} has another {key}; run `dvc repro` again")
    splits = {split: _on_split(document, predictions[split], confidence) for split, document in documents.items()}
    images = _held_out(pd.concat(predictions.values()))
    right = int(((images.y_score >= THRESHOLD) == (images.y_true == 1)).sum())
    again = images[images.times >= TIMES]
    doubtful = again[again.other >= SURE].sort_values(["other", "path"], ascending=[False, True], kind="stable")
    return Repeats(
        source=first.source,
        seed=first.training.seed,
        confidence=confidence,
        target_recall=first.operating_point.target_recall,
        splits=splits,
        over_splits={
            name: Spread.of([on.metrics[name].value for on in splits.values()], confidence)
            for name in next(iter(splits.values())).metrics
        },
        held_out=Estimate.proportion(right, len(images), confidence),
        again=Again(
            n=len(again),
            always_wrong=int((again.wrong == again.times).sum()),
            sometimes_wrong=int(((again.wrong > 0) & (again.wrong < again.times)).sum()),
        ),
        suspects=tuple(
            Suspect(
                path=str(path),
                label=LABELS[int(row.y_true)],
                times_held_out=int(row.times),
                other_class=round(float(row.other), 4),
            )
            for path, row in doubtful.iterrows()
        ),
    )


def _on_split(document: RunMetrics, predictions: pd.DataFrame, confidence: float) -> OnSplit:
    threshold = most_accurate_threshold(*subset(predictions, "validation"))
    chosen = proportions(*subset(predictions, "test"), threshold, confidence)
    point = document.operating_point.test
    return OnSplit(
        run=document.run,
        metrics={
            **{name: document.metrics[name] for name in ("accuracy", "recall", "specificity", "auroc")},
            "accuracy_chosen": chosen["accuracy"],
            "recall_at_point": point["recall"],
            "specificity_at_point": point["specificity"],
        },
        threshold_chosen=round(threshold, 6),
    )


def _held_out(scores: pd.DataFrame) -> pd.DataFrame:
    """Return a row per image: y_true, mean y_score, times held out, times wrong, and the other class's probability."""
    scores["wrong"] = (scores.y_score >= THRESHOLD) != (scores.y_true == 1)
    images = scores.groupby("path").agg(
        y_true=("y_true", "first"), y_score=("y_score", "mean"), times=("y_score", "size"), wrong=("wrong", "sum")
    )
    return images.assign(other=images.y_score.where(images.y_true == 0, 1 - images.y_score))


def most_accurate_threshold(y_true: Labels, y_score: Array) -> float:
    """Return the score at or above which calling an image Down syndrome is right most often; the middle one of several.

    y_true [N] of 0 and 1, y_score [N].
    """
    candidates = np.unique(y_score)
    right = ((y_score >= candidates[:, None]) == (y_true == 1)).sum(axis=1)  # [candidates]
    best = candidates[right == right.max()]
    return float(best[len(best) // 2])
