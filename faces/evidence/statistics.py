"""Intervals and tests: Wilson, MOVER, stratified BCa bootstrap, exact McNemar, Holm, spread over seeds."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Interval = tuple[float, float]

BLOCK = 250  # resamples held in memory at once


def wilson(successes: int, n: int, confidence: float) -> Interval:
    """Return the score interval of a proportion; (0, 1) where n is 0 and nothing is known.

    Wilson, E. B. (1927). Probable inference, the law of succession, and statistical inference.
    JASA 22, 209-212.
    """
    from scipy.stats import binomtest

    if n == 0:
        return 0.0, 1.0
    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def combine(coefficients: Sequence[float], values: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """Return an interval of sum(coefficient * value) from independent values' own intervals (MOVER).

    With coefficients (1, -1) and Wilson intervals this is Newcombe's interval of a difference of proportions.
    Zou, G. Y., Huang, W., Zhang, X. (2009). A note on confidence interval estimation for a linear function of
    binomial proportions. Computational Statistics & Data Analysis 53, 1080-1085.
    """
    c, v = np.asarray(coefficients, float), np.asarray(values, float)
    ends = np.sort(c[:, None] * np.asarray(intervals, float), axis=1)  # [values, 2]: each term's low and high
    terms = c * v
    below, above = np.sqrt(((ends - terms[:, None]) ** 2).sum(axis=0))
    return float(terms.sum() - below), float(terms.sum() + above)


def p_from_interval(value: float, interval: Interval, confidence: float) -> float:
    """Return the two-sided p-value of 0, from an estimate and its interval: the side that faces 0 is taken as normal.

    It is 1 - confidence where the interval ends at 0.
    Altman, D. G., Bland, J. M. (2011). How to obtain the P value from a confidence interval. BMJ 343, d2304.
    """
    from scipy.stats import norm

    half = interval[1] - value if value < 0 else value - interval[0]
    if value == 0 or half <= 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * norm.sf(abs(value) / half * norm.ppf(0.5 + confidence / 2)))


def bootstrap(
    statistic: Callable[[Array], Array],
    strata: npt.NDArray[np.int64],
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[Array, Array]:
    """Return (low [M], high [M]): BCa intervals of M statistics, rows resampled within their strata [N].

    `statistic` maps weights [R, N] (how often each row occurs in each of R resamples) to values [R, M].
    An interval always holds the value itself, also where the bootstrap is biased (calibration error is).
    Efron, B. (1987). Better bootstrap confidence intervals. JASA 82, 171-185; the acceleration for several
    strata as in scipy.stats.bootstrap.
    """
    from scipy.special import ndtr, ndtri

    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    sizes = [min(BLOCK, resamples - start) for start in range(0, resamples, BLOCK)]
    drawn = np.concatenate([statistic(resample(groups, size, rng)) for size in sizes])  # [resamples, M]
    value = statistic(np.ones((1, len(strata))))[0]  # [M]

    below = ((drawn < value).mean(axis=0) + (drawn <= value).mean(axis=0)) / 2
    bias = ndtri(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))  # [M]
    acceleration = _acceleration(statistic, groups, len(strata))  # [M]
    tails = bias + np.array([[-1.0], [1.0]]) * ndtri(0.5 + confidence / 2)  # [2, M]
    levels = ndtr(bias + tails / (1 - acceleration * tails))
    low, high = np.array([np.quantile(drawn[:, m], levels[:, m]) for m in range(len(value))]).T
    return np.minimum(low, value), np.maximum(high, value)


def resample(groups: Sequence[npt.NDArray[np.int64]], size: int, rng: np.random.Generator) -> Array:
    """Return how often each row occurs in each of `size` resamples [size, N]; each group holds a stratum's rows."""
    weights = np.zeros((size, sum(map(len, groups))))
    for rows in groups:
        weights[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size)
    return weights


def crossed_bootstrap(
    statistics: Sequence[Callable[[Array], Array]],
    strata: npt.NDArray[np.int64],
    resamples: int,
    seed: int,
    salt: int = 0,
) -> Array:
    """Return resampled means over runs [resamples, M] of M statistics, with runs and images resampled at once.

    statistics: one function for each run, from weights [R, N] to values [R, M]; all runs see the same images, which
    are resampled within their strata [N], and independently of that the runs. `seed` draws the images, with `salt`
    the runs: means that are drawn with the same seed and different salts are paired by images alone.
    Owen, A. B. (2007). The pigeonhole bootstrap. Annals of Applied Statistics 1, 386-411.
    """
    images, runs = np.random.default_rng(seed), np.random.default_rng([seed, salt])
    groups = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    n = len(statistics)
    means = []
    for start in range(0, resamples, BLOCK):
        size = min(BLOCK, resamples - start)
        weights = resample(groups, size, images)
        drawn = runs.multinomial(n, np.full(n, 1 / n), size) / n  # [R, runs]
        values = np.stack([statistic(weights) for statistic in statistics], axis=1)  # [R, runs, M]
        means.append(np.einsum("rs,rsm->rm", drawn, values))
    return np.concatenate(means)


def _acceleration(statistic: Callable[[Array], Array], groups: list[npt.NDArray[np.int64]], n: int) -> Array:
    """Return BCa's acceleration [M] from the jackknife, one row left out at a time."""
    cubes, squares = np.zeros(1), np.zeros(1)
    for rows in groups:
        if len(rows) == 1:
            continue  # a lone row is in every resample: its stratum does not vary
        blocks = []
        for start in range(0, len(rows), BLOCK):
            left_out = rows[start : start + BLOCK]
            weights = np.ones((len(left_out), n))
            weights[np.arange(len(left_out)), left_out] = 0
            blocks.append(statistic(weights))
        values = np.concatenate(blocks)  # [rows, M]
        influence = (values.mean(axis=0) - values) * (len(rows) - 1) / len(rows)
        cubes = cubes + (influence**3).sum(axis=0)
        squares = squares + (influence**2).sum(axis=0)
    accelerated = np.divide(cubes, 6 * squares**1.5, out=np.zeros_like(squares), where=squares > 1e-24)
    return np.asarray(accelerated, dtype=np.float64)


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the two-sided exact p of two classifiers' discordant counts on the same images.

    McNemar, Q. (1947). Note on the sampling error of the difference between correlated proportions or
    percentages. Psychometrika 12, 153-157; exact: the binomial test of the discordant pairs at 1/2.
    """
    from scipy.stats import binomtest

    discordant = first_only + second_only
    return float(binomtest(first_only, discordant, 0.5).pvalue) if discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for being several.

    Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scand. J. Statistics 6, 65-70.
    """
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if len(p_values) else []


def paired_difference(
    first_right: npt.NDArray[np.bool_],
    second_right: npt.NDArray[np.bool_],
    strata: npt.NDArray[np.int64],
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval:
    """Return the bootstrap interval of accuracy(first) - accuracy(second), both on the same images [N]."""
    gains = first_right.astype(float) - second_right.astype(float)  # [N]: 1, 0 or -1
    low, high = bootstrap(
        lambda weights: (weights @ gains / weights.sum(axis=1))[:, None], strata, confidence, resamples, seed
    )
    return float(low[0]), float(high[0])


def mcnemar_range(first_right: int, second_right: int, n: int) -> Interval:
    """Return the smallest and largest exact McNemar p that two counts of right answers on n images allow.

    How far the errors overlap is not known from the counts: from as much as possible to as little.
    """
    least = max(0, second_right - first_right)
    most = min(second_right, n - first_right)
    surplus = first_right - second_right
    p_values = [mcnemar(second_only + surplus, second_only) for second_only in range(least, most + 1)]
    return min(p_values), max(p_values)


def spread(values: Sequence[float], confidence: float) -> dict[str, float | int | None]:
    """Return n, mean, sd (n - 1), min, max and the t interval of the mean; sd and interval None where n is 1.

    Student (1908). The probable error of a mean. Biometrika 6, 1-25.
    """
    from scipy.stats import t

    n, mean = len(values), math.fsum(values) / len(values)
    summary: dict[str, float | int | None] = {
        "n": n,
        "mean": mean,
        "sd": None,
        "min": min(values),
        "max": max(values),
    }
    summary |= {"low": None, "high": None}
    if n > 1:
        sd = float(np.std(values, ddof=1))
        half = float(t.ppf(0.5 + confidence / 2, n - 1)) * sd / math.sqrt(n)
        summary |= {"sd": sd, "low": mean - half, "high": mean + half}
    return summary
