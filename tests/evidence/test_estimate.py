"""The one form of a metric: what it holds, and how it is written."""

from dataclasses import FrozenInstanceError, asdict

import pytest

from faces.evidence.estimate import Estimate, Spread
from faces.evidence.statistics import spread, wilson

VALUES = [0.91, 0.93, 0.94, 0.90, 0.925]


def test_a_proportion_has_wilsons_interval_in_six_digits() -> None:
    low, high = wilson(275, 300, 0.95)
    assert asdict(Estimate.proportion(275, 300, 0.95)) == {
        "value": 0.916667, "low": round(low, 6), "high": round(high, 6), "n": 300, "method": "Wilson"
    }  # fmt: skip
    assert Estimate.proportion(0, 0, 0.95) == Estimate(0, 0, 1, 0, "Wilson")


def test_it_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Estimate.proportion(1, 2, 0.95).value = 1  # type: ignore[misc]


def test_it_writes_itself() -> None:
    estimate = Estimate(0.92345, 0.88651, 0.9484, 300, "Wilson")
    assert estimate.percent == "92.3% (88.7 to 94.8)"
    assert estimate.decimal == "0.923 (0.887 to 0.948)"
    assert estimate.interval == (0.88651, 0.9484)
    assert Estimate(7, 3.02, 14.4, 149, "Wilson").count == "7 (3 to 14) of 149"


def test_a_spread_is_that_of_the_statistics_in_six_digits() -> None:
    found = Spread.of(VALUES, 0.95)
    assert asdict(found) == pytest.approx(spread(VALUES, 0.95), abs=5e-7)
    assert found.estimate == Estimate(found.mean, found.low, found.high, 5, "Student's t")


def test_the_interval_of_a_mean_of_shares_stays_among_the_shares() -> None:
    found = Spread.of([1.0, 0.9], 0.95)
    assert found.high > 1
    assert found.estimate
    assert (found.estimate.high, found.estimate.value) == (1, 0.95)
    assert Spread.of([0.9], 0.95).estimate is None
