"""How far groups of faces are groups of children: one class's pairs, counted and judged by file numbers."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faces.children.groups import LINKAGES, Floats, Forest, Ints, pairs_within
from faces.children.sessions import Resampled, Sessions

STEP = 0.05  # of the similarities in the tables
DIGITS = 6
DRAWN = 1_000_000  # pairs whose similarities stand for those of all


@dataclass(frozen=True)
class Check:
    """The faces of one class, n of them.

    embeddings [n, D]; copies [n]: the first image of each one's group of duplicates; pairs [P, 2] and similarity [P]:
    all that reach the floor; reference: from which similarity on pairs show how often one child's are neighbours.
    """

    embeddings: NDArray[np.float32]
    copies: Ints
    pairs: Ints
    similarity: Floats
    sessions: Sessions
    reference: float
    confidence: float

    def facts(self, floor: float, seed: int) -> dict[str, Any]:
        """Return what is known of the pairs, whatever the groups."""
        most_similar = self._reference()
        return {
            "faces": len(self.copies),
            "with_a_number": int((~np.isnan(self.sessions.numbers)).sum()),
            "neighbours_by_chance": round(self.sessions.chance, DIGITS),
            "similarity_of_all_pairs": self._quantiles(seed),
            "reference": {
                "similarity": self.reference,
                "neighbours": self._estimate(most_similar, _share(most_similar)),
            },
            "by_similarity": [self._band(low) for low in _steps(floor)],
            "linkages": [
                {"linkage": method, "threshold": threshold, **self.of_groups(cut)}
                for method in LINKAGES
                for forest in [Forest.grow(self.embeddings, self.pairs, method)]
                for threshold in _steps(floor)
                for cut in [forest.cut(threshold)]
            ],
        }

    def of_groups(self, groups: Ints) -> dict[str, Any]:
        """Return the sizes of groups [n], and what share of the pairs they join, or leave apart, is of one child.

        found: the share of all neighbours beyond chance that the groups join.
        """
        joined = pairs_within(groups)
        apart = self.pairs[groups[self.pairs[:, 0]] != groups[self.pairs[:, 1]]]
        inside, outside = self._count(joined), self._count(apart)
        found = self.sessions.found(inside, outside)
        return {
            **sizes(groups),
            "joined": self._judged(joined),
            "apart": self._judged(apart),
            "found": None if found is None else self._estimate(inside, found),
        }

    def _band(self, low: float) -> dict[str, Any]:
        inside = (self.similarity >= low) & (self.similarity < low + STEP)
        return {"from": low, "to": round(low + STEP, 2), **self._judged(self.pairs[inside])}

    def _judged(self, pairs: Ints) -> dict[str, Any]:
        counted = self._count(pairs)
        share = self.sessions.of_one_child(counted, self._reference())
        return {
            "pairs": counted.n,
            "neighbours": round(counted.neighbours[0]),
            "of_one_child": None if share is None else self._estimate(counted, share),
        }

    def _reference(self) -> Resampled:
        return self._count(self.pairs[self.similarity >= self.reference])

    def _count(self, pairs: Ints) -> Resampled:
        return self.sessions.count(pairs[self.copies[pairs[:, 0]] != self.copies[pairs[:, 1]]])

    def _estimate(self, counted: Resampled, values: Floats) -> dict[str, Any] | None:
        """Return the first of some values with the percentile interval of the others."""
        if counted.n == 0:
            return None
        tail = (1 - self.confidence) / 2
        low, high = np.nanquantile(values[1:], [tail, 1 - tail])
        return {
            "value": round(float(values[0]), DIGITS),
            "low": round(float(low), DIGITS),
            "high": round(float(high), DIGITS),
            "n": counted.n,
            "method": f"bootstrap of groups, {len(values) - 1} resamples",
        }

    def _quantiles(self, seed: int) -> dict[str, float]:
        """Return quantiles of the similarity over pairs drawn at random, which need no embedding of a child's."""
        n = len(self.embeddings)
        if n < 2:
            return {}
        rng = np.random.default_rng(seed)
        first = rng.integers(n, size=DRAWN)
        second = (first + rng.integers(1, n, size=DRAWN)) % n
        values = np.concatenate(
            [
                np.einsum("pd,pd->p", self.embeddings[first[i : i + 10_000]], self.embeddings[second[i : i + 10_000]])
                for i in range(0, DRAWN, 10_000)
            ]
        )
        return {f"{level:.1%}": round(float(np.quantile(values, level)), 3) for level in (0.05, 0.5, 0.95, 0.999)}


def sizes(groups: Ints) -> dict[str, Any]:
    """Return how many groups [n] have several images, these images, the largest, and how many groups have each size."""
    several = Counter(size for size in np.unique(groups, return_counts=True)[1].tolist() if size > 1)
    return {
        "groups": several.total(),
        "images_in_groups": sum(size * count for size, count in several.items()),
        "largest": max(several, default=1),
        "sizes": {str(size): several[size] for size in sorted(several)},
    }


def by_similarity(similarity: Floats, floor: float) -> list[dict[str, Any]]:
    """Count pairs [P] in steps of their similarity."""
    return [
        {"from": low, "to": round(low + STEP, 2), "pairs": int(((similarity >= low) & (similarity < low + STEP)).sum())}
        for low in _steps(floor)
    ]


def _share(counted: Resampled) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        share: Floats = counted.neighbours / counted.pairs
    return share


def _steps(floor: float) -> list[float]:
    return [round(low, 2) for low in np.arange(np.ceil(floor / STEP - 1e-9) * STEP, 1, STEP).tolist()]
