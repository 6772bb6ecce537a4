"""The paper's claims: each kind supported, not supported, and undecidable."""

from pathlib import Path
from typing import Any

import drawn_runs
import pytest

from faces.evidence.claims import Finding, decide
from faces.evidence.comparison import measure
from faces.evidence.documents import RunMetrics
from faces.evidence.estimate import Estimate
from faces.evidence.pairs import Pair
from faces.evidence.paper import Claim, Paper, load_paper
from faces.evidence.statistics import combine, wilson

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def paper() -> Paper:
    return load_paper(ROOT / "paper.yaml")


@pytest.fixture(scope="module")
def run() -> RunMetrics:
    return drawn_runs.finished_run("trial2", n=60)[1]


def claim_of(kind: str, **more: Any) -> Claim:
    return Claim.model_validate({"claim": "c", "kind": kind, "trial": "trial2", **more})


def decided(claim: Claim, paper: Paper, runs: dict[str, RunMetrics], pairs: tuple[Pair, ...] = ()) -> Finding:
    measured = {name: measure(run, None, "weighted", 0.95) for name, run in runs.items()}
    return decide(claim, paper, measured, pairs)


def with_accuracy(run: RunMetrics, low: float, high: float) -> RunMetrics:
    accuracy = Estimate((low + high) / 2, low, high, 300, "Wilson")
    return run.model_copy(update={"metrics": {**run.metrics, "accuracy": accuracy}})


def trained(run: RunMetrics, train: float, validation: float) -> RunMetrics:
    stop = run.training.at_stop.model_copy(update={"train_accuracy": train, "val_accuracy": validation})
    changes = {"at_stop": stop, "n_train": 2000, "n_validation": 600}
    return run.model_copy(update={"training": run.training.model_copy(update=changes)})


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.86, 0.95, "supported"), (0.7, 0.84, "not supported"), (0.8, 0.9, "undecidable")],
)
def test_reaching_a_target(paper: Paper, run: RunMetrics, low: float, high: float, expected: str) -> None:
    found = decided(claim_of("reaches", accuracy=0.85), paper, {"trial2": with_accuracy(run, low, high)})
    assert found.verdict == expected
    assert found.estimate == Estimate((low + high) / 2, low, high, 300, "Wilson")


def pair_of(first: str, second: str, difference: float, distinguishable: bool) -> Pair:
    counts = dict.fromkeys(("both_right", "first_only", "second_only", "both_wrong"), 1)
    estimate = Estimate(difference, difference, difference, 4, "made up")
    return Pair(
        first=first,
        second=second,
        difference=estimate,
        seeds=1,
        p=0.5,
        p_holm=0.5,
        distinguishable=distinguishable,
        **counts,
    )


@pytest.mark.parametrize(
    ("wins", "expected"),
    [
        ((0.1, True, 0.1, True), "supported"),
        ((0.1, True, 0.02, False), "undecidable"),
        ((-0.02, False, 0.1, True), "undecidable"),
        ((-0.1, True, 0.1, True), "not supported"),
    ],
)
def test_being_best(paper: Paper, run: RunMetrics, wins: tuple[float, bool, float, bool], expected: str) -> None:
    pairs = (
        pair_of("trial1", "trial2", -wins[0], wins[1]),
        pair_of("trial2", "trial3", wins[2], wins[3]),
        pair_of("trial1", "trial3", 0.3, True),
        # no part of the paper's claim: a run that the paper does not have
        pair_of("trial2", "improved", -0.3, True),
    )
    found = decided(claim_of("best"), paper, dict.fromkeys(("trial1", "trial2", "trial3", "improved"), run), pairs)
    assert (found.verdict, found.estimate) == (expected, None)


def test_being_best_of_one_is_undecidable(paper: Paper, run: RunMetrics) -> None:
    assert decided(claim_of("best"), paper, {"trial2": run}).verdict == "undecidable"


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [(0.85, 0.97, "supported"), (0.95, 0.97, "not supported"), (0.92, 0.97, "undecidable")],
)
def test_underfitting(paper: Paper, run: RunMetrics, own: float, other: float, expected: str) -> None:
    runs = {"trial2": trained(run, own, 0.8), "trial1": trained(run, other, 0.8)}
    found = decided(claim_of("underfits", against="trial1", margin=0.05), paper, runs)
    assert found.verdict == expected
    intervals = [wilson(round(share * 2000), 2000, 0.95) for share in (other, own)]
    assert found.estimate
    assert found.estimate.value == pytest.approx(other - own)
    assert found.estimate.interval == pytest.approx(combine((1, -1), (other, own), intervals), abs=2e-6)
    assert found.estimate.n == 2000


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [((0.99, 0.8), (0.95, 0.9), "supported"), ((0.95, 0.95), (0.99, 0.8), "not supported"),
     ((0.97, 0.9), (0.96, 0.9), "undecidable")],
)  # fmt: skip
def test_overfitting(
    paper: Paper, run: RunMetrics, own: tuple[float, float], other: tuple[float, float], expected: str
) -> None:
    runs = {"trial2": trained(run, *own), "trial1": trained(run, *other)}
    found = decided(claim_of("overfits", against="trial1"), paper, runs)
    assert found.verdict == expected
    assert found.estimate
    assert found.estimate.value == pytest.approx((own[0] - own[1]) - (other[0] - other[1]), abs=1e-6)
    assert found.estimate.low < found.estimate.value < found.estimate.high


def test_a_run_that_is_not_there_leaves_it_undecidable(paper: Paper, run: RunMetrics) -> None:
    found = decided(claim_of("overfits", against="trial1"), paper, {"trial2": run})
    assert (found.missing, found.estimate, found.verdict) == (("trial1",), None, "undecidable")
