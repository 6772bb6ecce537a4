"""What file numbers say about pairs of similar faces: evidence that no network had a part in.

Pictures of one child are often collected one after the other. So among pairs of one child a share `reference` has
neighbouring file numbers, and among pairs of two children only the share that all pairs of the class have,
`chance`. Of a set of pairs of which a share q are neighbours, about (q - chance) / (reference - chance) are of one
child. The reference is read off the most similar pairs; copies of one photograph are left out throughout, for they
are collected anew at any time. Where even the most similar pairs are not all of one child, the estimate is too high;
where less similar pictures of one child come from other sessions, it is too low.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from faces.children.groups import Floats, Ints

FEWEST = 10  # pairs; a reference from fewer is none


def file_numbers(paths: Sequence[str]) -> Floats:
    """Return the last number in each file's name, without its suffix: [N], NaN where it has none."""
    found = [re.findall(r"\d+", PurePosixPath(path).stem) for path in paths]
    return np.array([float(numbers[-1]) if numbers else np.nan for numbers in found])


def chance(numbers: Floats, window: int) -> float:
    """Return the share of neighbours, at most `window` apart, among all pairs of images that have a number [N]."""
    ordered = np.sort(numbers[~np.isnan(numbers)])
    n = len(ordered)
    near = np.searchsorted(ordered, ordered + window, side="right") - np.arange(1, n + 1)
    return float(near.sum() / (n * (n - 1) / 2)) if n > 1 else 0.0


@dataclass(frozen=True)
class Resampled:
    """A count of pairs: as it is first, then in each resample, [1 + R]."""

    pairs: Floats
    neighbours: Floats

    @property
    def n(self) -> int:
        """The pairs that there are."""
        return int(self.pairs[0])


@dataclass(frozen=True)
class Sessions:
    """One class's images, their file numbers, and the resamples of their groups.

    numbers [N]; unit [N]: the group of each image; weights [G, 1 + R]: how often each group occurs, once in the first.
    """

    numbers: Floats
    unit: Ints
    weights: Floats
    window: int

    @classmethod
    def of(cls, numbers: Floats, groups: Ints, window: int, resamples: int, seed: int) -> "Sessions":
        """Resample groups [N] with replacement."""
        names, unit = np.unique(groups, return_inverse=True)
        n = len(names)
        drawn = np.random.default_rng(seed).multinomial(n, [1 / n] * n, resamples).T if n else np.empty((0, resamples))
        return cls(numbers, unit, np.concatenate([np.ones((n, 1)), drawn], axis=1), window)

    @property
    def chance(self) -> float:
        """The share of neighbours among all pairs."""
        return chance(self.numbers, self.window)

    def neighbours(self, pairs: Ints) -> NDArray[np.bool_]:
        """Say of each pair [P, 2] whether its numbers are at most `window` apart."""
        near: NDArray[np.bool_] = np.abs(np.subtract(*self.numbers[pairs].T)) <= self.window
        return near

    def count(self, pairs: Ints) -> Resampled:
        """Count pairs [P, 2] of images that have a number, and the neighbours among them.

        A pair within a group counts as often as the group is drawn, one of two groups as the product of both.
        Owen, A. B. (2007). The pigeonhole bootstrap. Annals of Applied Statistics 1, 386-411.
        """
        known = pairs[~np.isnan(self.numbers[pairs]).any(axis=1)]
        return Resampled(self._count(known), self._count(known[self.neighbours(known)]))

    def _count(self, pairs: Ints) -> Floats:
        first, second = self.unit[pairs].T
        within = first == second
        n = len(self.weights)
        ones = np.ones(int((~within).sum()))
        between = coo_array((ones, (first[~within], second[~within])), shape=(n, n)).tocsr()
        inside = np.bincount(first[within], minlength=n) @ self.weights
        counted: Floats = (self.weights * (between @ self.weights)).sum(axis=0) + inside
        return counted

    def excess(self, counted: Resampled) -> Floats:
        """Return how many neighbours there are beyond those of chance [1 + R]."""
        return counted.neighbours - self.chance * counted.pairs

    def of_one_child(self, counted: Resampled, reference: Resampled) -> Floats | None:
        """Return the estimated share of pairs that are of one child [1 + R], 0 to 1; None where it cannot be said."""
        if counted.n == 0 or reference.n < FEWEST or self.excess(reference)[0] <= 0:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            here, top = (self.excess(found) / found.pairs for found in (counted, reference))
            share = np.where(top > 0, here / top, 1.0)  # a resample without a reference knows nothing
        return np.clip(share, 0, 1)

    def found(self, joined: Resampled, apart: Resampled) -> Floats | None:
        """Return the share of the neighbours beyond chance that is among the joined pairs [1 + R]; None if none is."""
        inside, outside = (np.maximum(self.excess(counted), 0) for counted in (joined, apart))
        if inside[0] + outside[0] <= 0:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            share: Floats = inside / (inside + outside)
        return share
