"""The paper's claims: what each is measured by, and what that decides.

    kind        measured by                                                      supported where it lies above
    reaches     the run's test accuracy                                          the target
    underfits   the other run's train accuracy minus the run's                   the margin
    overfits    the run's train minus validation accuracy, minus the other's     0
    best        every pair with another run of the paper                         (each won, each distinguishable)

Above: the whole interval does; not supported where it lies below; undecidable at this n where it holds the bound.
Train and validation accuracy are the last epoch's.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from faces.evidence.estimate import Estimate
from faces.evidence.pairs import Pair, difference
from faces.evidence.paper import Claim, Paper
from faces.evidence.statistics import combine

Verdict = Literal["supported", "not supported", "undecidable"]


class Finding(Claim):
    """A claim, the runs it needs that are not compared, the estimate it is measured by, and the verdict."""

    missing: Annotated[tuple[str, ...], Field(strict=False)]
    estimate: Estimate | None
    verdict: Verdict | None


def decide(
    claim: Claim, paper: Paper, measured: Mapping[str, Mapping[str, Estimate]], pairs: Sequence[Pair]
) -> Finding:
    """Return what was found of a claim; measured: by run, what comparison.measure returns."""
    missing = tuple(run for run in (claim.trial, claim.against) if run and run not in measured)
    estimate = None if missing else _estimate(claim, measured)
    verdict: Verdict = "undecidable"
    if estimate is not None:
        bound = {"reaches": claim.accuracy, "underfits": claim.margin}.get(claim.kind) or 0.0
        verdict = "supported" if estimate.low > bound else "not supported" if estimate.high < bound else "undecidable"
    elif not missing:
        verdict = _best(claim.trial, [pair for pair in pairs if {pair.first, pair.second} <= paper.rows.keys()])
    return Finding(**claim.model_dump(), missing=missing, estimate=estimate, verdict=verdict)


def _estimate(claim: Claim, measured: Mapping[str, Mapping[str, Estimate]]) -> Estimate | None:
    """Return what a claim is measured by; None for the kind that is decided by pairs."""
    if claim.kind == "best":
        return None
    if claim.kind == "reaches":
        return measured[claim.trial]["accuracy"]
    own, other = measured[claim.trial], measured[claim.against or ""]
    train, validation = own["train_accuracy"], own["validation_accuracy"]
    other_train, other_validation = other["train_accuracy"], other["validation_accuracy"]
    if claim.kind == "underfits":
        return difference(other_train, train)
    shares, signs = (train, validation, other_train, other_validation), (1, -1, -1, 1)
    interval = combine(signs, [share.value for share in shares], [share.interval for share in shares])
    value = sum(sign * share.value for sign, share in zip(signs, shares, strict=True))
    return Estimate.rounded(value, interval, train.n, "MOVER of four proportions")


def _best(run: str, pairs: Sequence[Pair]) -> Verdict:
    own = [pair for pair in pairs if run in (pair.first, pair.second)]
    wins = [(pair.difference.value > 0) == (pair.first == run) for pair in own]
    if any(pair.distinguishable and not win for pair, win in zip(own, wins, strict=True)):
        return "not supported"
    return "supported" if own and all(pair.distinguishable for pair in own) else "undecidable"
