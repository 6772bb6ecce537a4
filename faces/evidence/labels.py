"""Which images may carry the wrong label, by several rules, and what that leaves for a perfect model to reach.

A score is held out if its model was not trained on the image: those of the validation and the test subset.
always_wrong: held out TIMES times or more and wrong every time. sure: the mean score is at least SURE of the other
class. confident: confident learning, by cleanlab.
Northcutt, C., Jiang, L., Chuang, I. (2021). Confident learning: estimating uncertainty in dataset labels. Journal of
Artificial Intelligence Research 70, 1373-1411.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from faces.evidence.documents import Document
from faces.evidence.estimate import Estimate
from faces.evidence.metrics import THRESHOLD, Labels
from faces.evidence.repeats import SURE, TIMES
from faces.evidence.statistics import Array
from faces.naming import LABELS
from faces.params import Evaluate

RULES = ("always_wrong", "sure", "confident")


class Suspect(Document):
    """An image that at least one of RULES names.

    other_class: mean probability of the other class; quality: cleanlab's, from 0 (wrong) to 1;
    faces_of_other_class: of the most similar faces, copies aside, how many carry the other label (None: no face);
    both_labels: its group of children holds both labels.
    """

    path: str
    label: str
    times_held_out: int
    times_wrong: int
    other_class: float
    quality: float
    rules: tuple[str, ...]
    faces_of_other_class: int | None
    both_labels: bool


class Faces(Document):
    """How many images have only faces of the other class most like theirs, among the suspects and among the others."""

    faces: int  # how many of the most similar are looked at
    suspects: Estimate
    others: Estimate


class LabelNoise(Document):
    """What metrics/labels.json holds.

    n: images that were held out; again: TIMES times or more; named: the share of the images that each rule names, of
    `again` for always_wrong; noise: cleanlab's estimate of the share of wrong labels; ceiling: 1 minus each of these,
    the accuracy that a perfect model would reach against these labels if the rule were right; suspects: the most
    suspected first.
    """

    source: str
    confidence: float
    runs: tuple[str, ...]
    n: int
    again: int
    named: dict[str, Estimate]
    named_by_all: int
    noise: Estimate
    ceiling: dict[str, Estimate]
    most_similar: Faces
    suspects: tuple[Suspect, ...]


def held_out(predictions: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a row for each image: index path; y_true, mean y_score, times held out, times wrong.

    predictions, by run: columns path, subset, y_true, y_score.
    """
    rows = pd.concat(predictions.values(), ignore_index=True)
    rows["wrong"] = (rows.y_score >= THRESHOLD) != (rows.y_true == 1)
    found: pd.DataFrame = rows.groupby("path").agg(
        y_true=("y_true", "first"), y_score=("y_score", "mean"), times=("y_score", "size"), wrong=("wrong", "sum")
    )
    return found


def summarise(images: pd.DataFrame, source: str, runs: tuple[str, ...], faces: int, evaluate: Evaluate) -> LabelNoise:
    """Return the suspects and what they mean for the accuracy.

    images: as `held_out` returns them, and columns group (of children), both_labels, faces_of_other_class (of the
    `faces` most similar; NaN without a face).
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    y_true = images.y_true.to_numpy(np.int64)
    scores = _two_columns(images.y_score.to_numpy(np.float64))
    other = np.where(y_true == 1, scores[:, 0], scores[:, 1])
    named = {
        "always_wrong": ((images.times >= TIMES) & (images.wrong == images.times)).to_numpy(),
        "sure": ((images.times >= TIMES) & (other >= SURE)).to_numpy(),
        "confident": np.asarray(find_label_issues(y_true, scores, n_jobs=1)),
    }
    about = images.assign(**named, other=other, quality=get_label_quality_scores(y_true, scores))
    again = int((images.times >= TIMES).sum())
    shares = {
        rule: Estimate.proportion(
            int(about[rule].sum()), len(about) if rule == "confident" else again, evaluate.confidence
        )
        for rule in RULES
    }
    noise = _noise(y_true, scores, images.group.to_numpy(), evaluate)
    suspected = about[about[list(RULES)].any(axis=1)]
    return LabelNoise(
        source=source,
        confidence=evaluate.confidence,
        runs=runs,
        n=len(about),
        again=again,
        named=shares,
        named_by_all=int(about[list(RULES)].all(axis=1).sum()),
        noise=noise,
        ceiling={rule: _rest(share) for rule, share in (shares | {"noise": noise}).items()},
        most_similar=Faces(
            faces=faces,
            suspects=_all_of_other_class(suspected, faces, evaluate.confidence),
            others=_all_of_other_class(about.drop(suspected.index), faces, evaluate.confidence),
        ),
        suspects=tuple(_suspects(suspected)),
    )


def _two_columns(y_score: Array) -> Array:
    return np.stack([1 - y_score, y_score], axis=1)


def _noise(y_true: Labels, scores: Array, group: Array, evaluate: Evaluate) -> Estimate:
    """Return the estimated share of wrong labels, with the percentile interval of resampled groups of children."""

    def share(rows: Labels) -> float:
        from cleanlab.count import estimate_joint

        joint = estimate_joint(y_true[rows], scores[rows])
        return float(joint.sum() - np.trace(joint))

    members = [rows.to_numpy() for rows in pd.Series(np.arange(len(group))).groupby(group).groups.values()]
    rng = np.random.default_rng(evaluate.seed)
    drawn = []
    for _ in range(evaluate.resamples):
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        if len(np.unique(y_true[rows])) == len(LABELS):
            drawn.append(share(rows))
    tail = (1 - evaluate.confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    value = share(np.arange(len(y_true)))
    method = f"confident joint; bootstrap of groups of children, {evaluate.resamples} resamples"
    return Estimate.rounded(value, (min(low, value), max(high, value)), len(y_true), method)


def _rest(share: Estimate) -> Estimate:
    return Estimate.rounded(1 - share.value, (1 - share.high, 1 - share.low), share.n, share.method)


def _all_of_other_class(images: pd.DataFrame, faces: int, confidence: float) -> Estimate:
    known = images.faces_of_other_class.dropna()
    return Estimate.proportion(int((known == faces).sum()), len(known), confidence)


def _suspects(images: pd.DataFrame) -> list[Suspect]:
    order = images.assign(named_by=images[list(RULES)].sum(axis=1)).sort_values(
        ["named_by", "other", "path"], ascending=[False, False, True], kind="stable"
    )
    return [
        Suspect(
            path=str(path),
            label=LABELS[int(row.y_true)],
            times_held_out=int(row.times),
            times_wrong=int(row.wrong),
            other_class=round(float(row.other), 4),
            quality=round(float(row.quality), 4),
            rules=tuple(rule for rule in RULES if row[rule]),
            faces_of_other_class=None if pd.isna(row.faces_of_other_class) else int(row.faces_of_other_class),
            both_labels=bool(row.both_labels),
        )
        for path, row in order.iterrows()
    ]
