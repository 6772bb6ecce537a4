"""What is measured: a value with its interval, and the spread of a value over several runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from faces.evidence.statistics import Interval, spread, wilson

DIGITS = 6  # of what is kept


@dataclass(frozen=True)
class Estimate:
    """A value with its interval: a fraction (not per cent), or a number of images of n.

    n: images (or runs) behind the value; method: how the interval was made.
    """

    value: int | float
    low: float
    high: float
    n: int
    method: str

    @classmethod
    def rounded(cls, value: float, interval: Interval, n: int, method: str) -> "Estimate":
        """Return an estimate of DIGITS digits."""
        low, high = interval
        return cls(round(value, DIGITS), round(low, DIGITS), round(high, DIGITS), n, method)

    @classmethod
    def proportion(cls, successes: int, n: int, confidence: float) -> "Estimate":
        """Return successes of n with Wilson's interval; 0 (0 to 1) where n is 0."""
        return cls.rounded(successes / n if n else 0.0, wilson(successes, n, confidence), n, "Wilson")

    @property
    def interval(self) -> Interval:
        """Low and high."""
        return self.low, self.high

    @property
    def percent(self) -> str:
        """The value of a fraction as in "92.3% (88.7 to 94.8)"."""
        return f"{self.value:.1%} ({100 * self.low:.1f} to {100 * self.high:.1f})"

    @property
    def decimal(self) -> str:
        """The value as in "0.973 (0.955 to 0.985)"."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    @property
    def count(self) -> str:
        """A number of images as in "7 (3 to 14) of 149"."""
        return f"{self.value:.0f} ({self.low:.0f} to {self.high:.0f}) of {self.n}"


@dataclass(frozen=True)
class Spread:
    """A fraction over n runs: mean, standard deviation, extremes, and Student's interval of the mean.

    sd, low and high are None for one run.
    """

    n: int
    mean: float
    sd: float | None
    min: float
    max: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float], confidence: float) -> "Spread":
        """Return the spread of values, of DIGITS digits."""
        found = spread(values, confidence)
        return cls(**{key: None if value is None else round(value, DIGITS) for key, value in found.items()})  # type: ignore[arg-type]

    @property
    def estimate(self) -> Estimate | None:
        """The mean with its interval, cut off at 0 and 1; None for one run."""
        if self.low is None or self.high is None:
            return None
        return Estimate(self.mean, max(self.low, 0.0), min(self.high, 1.0), self.n, "Student's t")
