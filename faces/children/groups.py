"""Groups of faces that may be one child's: pairs found with an index, then agglomerative clustering.

No average (or complete) link at or above a threshold can form between faces that no chain of pairs at that threshold
connects. So only the pairs at or above a floor are looked for, and the faces that they connect are clustered, one
connected set at a time: the result is that of all pairs, the memory is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from faces.cli import InputError
from faces.images import duplicates

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Linkage = Literal["single", "average", "complete"]
LINKAGES: tuple[Linkage, ...] = get_args(Linkage)
PROBES = 128  # cells of the index that are searched: alike faces are farther apart than near duplicates
MOST = 20_000  # connected faces whose distances fit in memory: 3 GB


def similar_pairs(embeddings: NDArray[np.float32], floor: float) -> tuple[Ints, Floats]:
    """Return the pairs of faces whose cosine similarity is at least `floor`, and it: [P, 2] and [P].

    embeddings [N, D] of length one. Found by the index that finds duplicates: exact up to 10,000 faces.
    """
    if len(embeddings) < 2:
        return np.empty((0, 2), np.int64), np.empty(0)
    pairs, distances = duplicates.feature_pairs(embeddings, 1 - floor, "group.floor", "raise", PROBES)
    return pairs, 1 - distances


@dataclass(frozen=True)
class Forest:
    """Merges of faces by scipy's linkage, one tree for each connected set; heights are 1 - cosine similarity."""

    n: int
    members: tuple[Ints, ...]  # the faces of each tree
    trees: tuple[Floats, ...]

    @classmethod
    def grow(cls, embeddings: NDArray[np.float32], pairs: Ints, method: Linkage) -> "Forest":
        """Cluster n embeddings [n, D], of which the pairs [P, 2] are all that are similar enough to matter."""
        first = duplicates.components(len(embeddings), pairs)
        members = [np.flatnonzero(first == name) for name in np.unique(first[np.unique(pairs)])]
        largest = max(map(len, members), default=0)
        if largest > MOST:
            raise InputError(
                f"params.yaml: group.floor connects {largest} faces with each other, more than {MOST}; raise it"
            )
        return cls(len(embeddings), tuple(members), tuple(_tree(embeddings[rows], method) for rows in members))

    def cut(self, threshold: float) -> Ints:
        """Return for each face the first of its group [n]: merges at a similarity of at least `threshold` are made."""
        first = np.arange(self.n)
        for rows, tree in zip(self.members, self.trees, strict=True):
            group = fcluster(tree, 1 - threshold, "distance")
            _, start, inverse = np.unique(group, return_index=True, return_inverse=True)
            first[rows] = rows[start[inverse]]
        return first

    def margin(self, threshold: float) -> float | None:
        """Return how far the nearest merge lies from a threshold; None if there is none."""
        heights = np.concatenate([tree[:, 2] for tree in self.trees]) if self.trees else np.empty(0)
        return float(np.abs(1 - heights - threshold).min()) if len(heights) else None


def _tree(embeddings: NDArray[np.float32], method: Linkage) -> Floats:
    exact = embeddings.astype(np.float64)
    distances = np.clip(1 - exact @ exact.T, 0, 2)
    np.fill_diagonal(distances, 0)
    tree: Floats = linkage(squareform(distances, checks=False), method)
    return tree


def joined(groupings: Sequence[Ints], pairs: Ints) -> Ints:
    """Return the groups [n] that several groupings and some pairs [P, 2] put together, directly or through others.

    A grouping says for each image [n] one image of its group.
    """
    n = len(groupings[0])
    links = [np.stack([first, np.arange(n)], axis=1) for first in groupings]
    return duplicates.components(n, np.concatenate([*links, pairs]))


def pairs_within(groups: Ints) -> Ints:
    """Return all pairs of images in one group, [P, 2]; groups [n]."""
    order = np.argsort(groups, kind="stable")
    borders = np.flatnonzero(np.diff(groups[order])) + 1
    found = [np.empty((0, 2), np.int64)]
    for rows in np.split(order, borders):
        if len(rows) > 1:
            found.append(rows[np.stack(np.triu_indices(len(rows), 1), axis=1)])
    return np.concatenate(found)
