"""Two runs, or two rows of the paper: which is better, and how sure is that?"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from faces.cli import InputError
from faces.evidence.documents import Document, RunMetrics
from faces.evidence.estimate import DIGITS, Estimate
from faces.evidence.paper import Paper, value_and_unit
from faces.evidence.seeds import Difference
from faces.evidence.statistics import combine, holm, mcnemar, mcnemar_range, paired_difference
from faces.params import Evaluate


class Pair(Document):
    """Two runs on the same test images; difference: accuracy of the first minus that of the second.

    Where both recipes have several seeds, difference and p are those of their means (faces.evidence.seeds); otherwise p
    is exact McNemar's. The four counts are always those of the two runs alone.
    """

    first: str
    second: str
    both_right: int
    first_only: int
    second_only: int
    both_wrong: int
    difference: Estimate
    seeds: int  # behind each of the two, 1: the runs alone
    p: float
    p_holm: float  # corrected for the number of pairs
    distinguishable: bool


class PaperPair(Document):
    """Two rows of the paper, as far as their accuracies tell; McNemar's p is from p_min to p_max."""

    first: str
    second: str
    difference: Estimate
    p_min: float
    p_max: float


def run_pairs(
    runs: Mapping[str, RunMetrics],
    predictions: Mapping[str, pd.DataFrame],
    over_seeds: Mapping[tuple[str, str], Difference],
    params: Evaluate,
) -> tuple[Pair, ...]:
    """Return every two runs on the same test images: difference and test, Holm's correction over all pairs.

    predictions: columns path, subset, y_true, y_score; over_seeds: by two runs, where both have several seeds.
    Errors: InputError where the test images are not the same.
    """
    tables = {run: _test_rows(predictions[run]) for run in runs}
    y_true = next(iter(tables.values()))["y_true"]
    for run, table in tables.items():
        if not table["y_true"].equals(y_true):
            raise InputError(f"predictions of {run} are not of the same test images; run `dvc repro`")
    strata = y_true.to_numpy(np.int64)
    right = {
        run: ((table["y_score"] >= runs[run].settings.threshold) == (table["y_true"] == 1)).to_numpy()
        for run, table in tables.items()
    }
    method = f"BCa bootstrap, stratified by class, paired by image, {params.resamples} resamples"
    drafts = []
    for first, second in combinations(runs, 2):
        a, b = right[first], right[second]
        first_only, second_only = int((a & ~b).sum()), int((~a & b).sum())
        interval = paired_difference(a, b, strata, params.confidence, params.resamples, params.seed)
        pair = Pair(
            first=first,
            second=second,
            both_right=int((a & b).sum()),
            first_only=first_only,
            second_only=second_only,
            both_wrong=int((~a & ~b).sum()),
            difference=Estimate.rounded((first_only - second_only) / len(a), interval, len(a), method),
            seeds=1,
            p=mcnemar(first_only, second_only),
            p_holm=1.0,
            distinguishable=False,
        )
        found = over_seeds.get((first, second))
        if found is not None:
            pair = pair.model_copy(update={"difference": found.accuracy, "seeds": found.seeds, "p": found.p})
        drafts.append(pair)
    return tuple(
        pair.model_copy(
            update={
                "p": round(pair.p, DIGITS),
                "p_holm": round(corrected, DIGITS),
                "distinguishable": corrected < 1 - params.confidence,
            }
        )
        for pair, corrected in zip(drafts, holm([pair.p for pair in drafts]), strict=True)
    )


def _test_rows(predictions: pd.DataFrame) -> pd.DataFrame:
    return predictions[predictions["subset"] == "test"].set_index("path").sort_index()


def paper_pairs(paper: Paper, confidence: float) -> tuple[PaperPair, ...]:
    """Return how sure the paper's own ranking is, from its accuracies alone, the better row first.

    Without its predictions only bounds are known: Newcombe's interval takes the errors as independent, and the exact
    McNemar p lies between what most and least overlap of the errors would give.
    """
    n = paper.test.n
    accuracies = {name: value_and_unit(row.accuracy)[0] for name, row in paper.rows.items() if row.accuracy is not None}
    pairs = []
    for first, second in combinations(sorted(accuracies, key=lambda name: -accuracies[name]), 2):
        counts = [round(accuracies[name] * n) for name in (first, second)]
        shares = [Estimate.proportion(count, n, confidence) for count in counts]
        p_min, p_max = mcnemar_range(counts[0], counts[1], n)
        pairs.append(
            PaperPair(
                first=first,
                second=second,
                difference=difference(shares[0], shares[1]),
                p_min=float(f"{p_min:.3g}"),
                p_max=float(f"{p_max:.3g}"),
            )
        )
    return tuple(pairs)


def difference(first: Estimate, second: Estimate) -> Estimate:
    """Return first minus second of two independent proportions, with Newcombe's interval; n is the first's."""
    interval = combine((1, -1), (first.value, second.value), (first.interval, second.interval))
    return Estimate.rounded(first.value - second.value, interval, first.n, "Newcombe")
