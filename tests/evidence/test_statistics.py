"""Each interval and test against an independent library, a published worked example, or every case counted out."""

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import scipy.stats
import statsmodels.stats.proportion
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from faces.evidence import statistics


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_examples(successes: int, n: int, low: float, high: float) -> None:
    # Newcombe, R. G. (1998). Two-sided confidence intervals for the single proportion. Stat. Med. 17, table I.
    assert statistics.wilson(successes, n, 0.95) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 2000), st.data(), st.floats(0.5, 0.999))
@settings(max_examples=50, deadline=None)
def test_wilson_equals_statsmodels(n: int, data: st.DataObject, confidence: float) -> None:
    successes = data.draw(st.integers(0, n))
    expected = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    assert statistics.wilson(successes, n, confidence) == pytest.approx(expected, abs=1e-9)


def test_wilson_of_nothing_is_everything() -> None:
    assert statistics.wilson(0, 0, 0.95) == (0, 1)


def difference(a: tuple[int, int], b: tuple[int, int]) -> tuple[float, float]:
    intervals = [statistics.wilson(k, n, 0.95) for k, n in (a, b)]
    return statistics.combine((1, -1), [k / n for k, n in (a, b)], intervals)


def test_combine_gives_the_published_difference() -> None:
    # Newcombe, R. G. (1998). Interval estimation for the difference between independent proportions.
    # Stat. Med. 17, table II, example (a), method 10: 56/70 - 48/80.
    assert difference((56, 70), (48, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@given(st.integers(1, 300), st.integers(1, 300), st.data())
@settings(max_examples=50, deadline=None)
def test_combine_of_two_equals_statsmodels(n: int, m: int, data: st.DataObject) -> None:
    a, b = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    expected = confint_proportions_2indep(a, n, b, m, method="newcomb", compare="diff")
    assert difference((a, n), (b, m)) == pytest.approx(expected, abs=1e-9)


def test_combine_of_four_covers_the_truth() -> None:
    # nominal 95%, 400 draws: a share between 0.92 and 0.98 is within three standard errors
    rng = np.random.default_rng(1)
    truth, n = np.array([0.97, 0.86, 0.95, 0.9]), np.array([200, 60, 200, 60])
    signs = (1, -1, -1, 1)
    hits = 0
    for counts in rng.binomial(n, truth, (400, 4)):
        intervals = [statistics.wilson(int(k), int(m), 0.95) for k, m in zip(counts, n, strict=True)]
        low, high = statistics.combine(signs, list(counts / n), intervals)
        hits += low <= truth @ np.array(signs) <= high
    assert 0.92 <= hits / 400 <= 0.98


@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_mcnemar_is_the_binomial_tail_and_equals_statsmodels(first_only: int, second_only: int) -> None:
    n, k = first_only + second_only, min(first_only, second_only)
    counted = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
    p = statistics.mcnemar(first_only, second_only)
    assert p == pytest.approx(counted, rel=1e-9)
    if n:
        table = [[5, first_only], [second_only, 7]]
        assert p == pytest.approx(mcnemar_of_statsmodels(table, exact=True).pvalue, rel=1e-9)


def test_p_from_interval_gives_the_published_example() -> None:
    # Altman, D. G., Bland, J. M. (2011). BMJ 343, d2304: a relative risk of 0.81 (0.70 to 0.94) has P = 0.005.
    p = statistics.p_from_interval(math.log(0.81), (math.log(0.70), math.log(0.94)), 0.95)
    assert p == pytest.approx(0.005, abs=0.001)


@given(st.floats(-3, 3), st.floats(0.01, 3), st.floats(0.5, 0.999))
def test_p_from_a_normal_interval_is_the_z_tests(value: float, error: float, confidence: float) -> None:
    interval = scipy.stats.norm.interval(confidence, value, error)
    expected = 2 * scipy.stats.norm.sf(abs(value) / error)
    assert statistics.p_from_interval(value, interval, confidence) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("value", "interval"), [(-0.2, (-0.9, 0)), (0.2, (0, 0.3))])
def test_p_from_an_interval_that_ends_at_zero(value: float, interval: tuple[float, float]) -> None:
    assert statistics.p_from_interval(value, interval, 0.9) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("first", "second"), [((134, 150), (145, 150)), ((137, 150), (130, 150)), ((271, 300), (275, 300))]
)
def test_p_from_newcombes_interval_is_near_the_score_tests(first: tuple[int, int], second: tuple[int, int]) -> None:
    value = first[0] / first[1] - second[0] / second[1]
    p = statistics.p_from_interval(value, difference(first, second), 0.95)
    expected = statsmodels.stats.proportion.test_proportions_2indep(*first, *second, method="score").pvalue
    assert p == pytest.approx(expected, rel=0.05)


def test_p_from_an_interval_without_width() -> None:
    assert statistics.p_from_interval(0.0, (0.0, 0.0), 0.95) == 1
    assert statistics.p_from_interval(0.1, (0.1, 0.2), 0.95) == 0


def test_mcnemar_without_discordant_images_is_one() -> None:
    assert statistics.mcnemar(0, 0) == 1


def test_holm_gives_the_worked_example() -> None:
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, then never decreasing
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]) == []


@pytest.mark.parametrize(("first", "second", "n"), [(5, 3, 8), (3, 5, 8), (4, 4, 9), (8, 8, 8), (0, 6, 7)])
def test_mcnemar_range_equals_counting_all_tables(first: int, second: int, n: int) -> None:
    p_values = [
        statistics.mcnemar(only_first, only_second)
        for both, only_first, only_second in product(range(n + 1), repeat=3)
        if both + only_first == first and both + only_second == second and both + only_first + only_second <= n
    ]
    assert statistics.mcnemar_range(first, second, n) == (min(p_values), max(p_values))


def test_bootstrap_equals_scipys_bca() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.exponential(2, 60), rng.exponential(1, 45)
    values = np.concatenate([a, b])
    strata = np.repeat([1, 0], [60, 45])

    def ratio_of_means(weights: np.ndarray) -> np.ndarray:
        means = [weights * (strata == s) @ values / (weights * (strata == s)).sum(axis=1) for s in (1, 0)]
        return (means[0] / means[1])[:, None] * [1, 10]

    low, high = statistics.bootstrap(ratio_of_means, strata, 0.9, 20_000, seed=1)
    expected = scipy.stats.bootstrap(
        (a, b),
        lambda x, y, axis: x.mean(axis=axis) / y.mean(axis=axis),
        n_resamples=20_000,
        confidence_level=0.9,
        method="BCa",
        rng=np.random.default_rng(5),
    ).confidence_interval
    width = expected.high - expected.low
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=0.03 * width)
    assert (low[1], high[1]) == pytest.approx((10 * low[0], 10 * high[0]))


def mean_of(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda weights: (weights @ values / weights.sum(axis=1))[:, None]


def test_bootstrap_keeps_each_stratum_whole() -> None:
    strata = np.repeat([0, 1], [30, 10])
    low, high = statistics.bootstrap(mean_of(strata.astype(float)), strata, 0.95, 500, seed=1)
    assert (low[0], high[0]) == (0.25, 0.25)


def test_bootstrap_interval_holds_a_biased_statistic() -> None:
    values = np.random.default_rng(0).normal(size=40)

    def absolute_mean(weights: np.ndarray) -> np.ndarray:  # biased upwards where the mean is near 0
        return np.abs(weights @ (values - values.mean()))[:, None]

    low, high = statistics.bootstrap(absolute_mean, np.zeros(40, int), 0.95, 300, seed=1)
    assert low[0] <= absolute_mean(np.ones((1, 40)))[0, 0] <= high[0]


def test_bootstrap_depends_on_its_seed_alone() -> None:
    values, strata = np.random.default_rng(0).normal(size=80), np.zeros(80, int)
    runs = [statistics.bootstrap(mean_of(values), strata, 0.95, 600, seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_bootstrap_of_a_lone_row_is_that_row() -> None:
    values = np.array([3.0, 1.0, 2.0])
    low, high = statistics.bootstrap(mean_of(values), np.array([0, 1, 2]), 0.95, 100, seed=1)
    assert (low[0], high[0]) == (2, 2)


def test_paired_difference_equals_scipys() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.random(400) < 0.9, rng.random(400) < 0.8
    strata = np.repeat([0, 1], 200)
    low, high = statistics.paired_difference(a, b, strata, 0.95, 5000, seed=1)
    d = a.astype(float) - b
    expected = scipy.stats.bootstrap(
        (d[:200], d[200:]),
        lambda x, y, axis: (x.mean(axis=axis) + y.mean(axis=axis)) / 2,
        n_resamples=5000,
        method="BCa",
        rng=np.random.default_rng(6),
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.005)
    swapped = statistics.paired_difference(b, a, strata, 0.95, 5000, seed=1)
    assert swapped == pytest.approx((-high, -low), abs=0.003)


def test_paired_difference_of_equal_answers_is_zero() -> None:
    right = np.array([True, False] * 10)
    assert statistics.paired_difference(right, right, np.zeros(20, int), 0.95, 200, seed=1) == (0, 0)


def test_spread_equals_statsmodels() -> None:
    values = [0.91, 0.93, 0.94, 0.90, 0.925]
    spread = statistics.spread(values, 0.95)
    oracle = DescrStatsW(values)
    assert (spread["low"], spread["high"]) == pytest.approx(oracle.tconfint_mean(0.05))
    assert (spread["n"], spread["min"], spread["max"]) == (5, 0.90, 0.94)
    assert spread["mean"] == pytest.approx(0.921)
    assert spread["sd"] == pytest.approx(np.std(values, ddof=1))


def test_spread_of_one_value_has_no_interval() -> None:
    assert statistics.spread([0.5], 0.95) == {
        "n": 1, "mean": 0.5, "sd": None, "min": 0.5, "max": 0.5, "low": None, "high": None
    }  # fmt: skip
