"""Which images show the same thing: near duplicates, found with indexes, never by comparing all pairs.

Two images are near duplicates if their perceptual hashes (64 bits; Zauner 2010, as imagehash computes them)
differ in few bits, or if the features of a frozen network have a small cosine distance. The two measures
see different things: the hash coarse light and dark, the features content whatever its place or mirroring.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from faces.cli import InputError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
ROUNDING = 1e-5  # distances of the same two fp32 features differ by less between processors (docs/data.md)
REACH = 0.005  # how far beyond the threshold its nearest pair is looked for
PAIRS_PER_IMAGE = 50  # more near duplicates than this, on average, mean a useless threshold
PROBES = 16  # cells of the index that are searched for near duplicates
PARTS = 4  # a hash is looked up by its four 16-bit parts: one of them differs in at most distance // 4 bits
BLOCK = 1024  # queries at a time, which bounds the memory of their answers


def hash_pairs(hashes: NDArray[np.uint64], distance: int) -> Ints:
    """Return the pairs of different hashes at most `distance` bits apart, and a chain through equal ones.

    hashes: [N]. Returns [P, 2] with first < second, sorted. Exact. `InputError` if the pairs are too many.
    """
    unique, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    chain = np.stack([first[inverse], np.arange(len(hashes))], axis=1)
    chain = chain[chain[:, 0] != chain[:, 1]]
    packed = unique.astype(">u8").view(np.uint8).reshape(-1, 8)
    index = faiss.IndexBinaryMultiHash(64, PARTS, 64 // PARTS)
    index.nflip = distance // PARTS
    index.add(packed)
    near = _range_pairs(index.range_search, packed, distance + 1, "audit.hash_distance", "lower")  # faiss: < radius
    return _sorted(np.concatenate([chain, first[near]]))


def feature_pairs(
    features: NDArray[np.float32],
    distance: float,
    parameter: str = "audit.feature_distance",
    change: str = "lower",
    probes: int = PROBES,
) -> tuple[Ints, Floats]:
    """Return the pairs of features whose cosine distance is at most `distance`, and these distances.

    features: [N, D], of length one. Returns [P, 2] with first < second, sorted, and [P]. `InputError` if the pairs are
    too many: it names the parameter, and what to do with it ("lower" or "raise").
    """
    # found generously with sums in float32, decided in float64
    search = cosine_index(features, probes).range_search
    pairs = _sorted(_range_pairs(search, features, 1 - distance - ROUNDING, parameter, change))
    distances = cosine_distances(features, pairs)
    near = distances <= distance
    return pairs[near], distances[near]


def cosine_index(features: NDArray[np.float32], probes: int) -> faiss.IndexIVFFlat:
    """Return an index of features [N, D] of length one by their cosine similarity.

    Up to some thousand images every cell of the index is searched, and the answer is exact; beyond, the `probes` cells
    nearest to each image are. For the small distances of duplicates, PROBES miss next to none.
    """
    n, width = features.shape
    cells = max(1, round(4 * np.sqrt(n)) if n > 10_000 else 1)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 64
    index.nprobe = probes
    index.train(features)
    index.add(features)
    return index


@dataclass(frozen=True)
class Gap:
    """The pairs nearest to a threshold: their numbers among the distances, None where there is none within REACH."""

    below: int | None
    above: int | None
    margin: float  # of the threshold to the nearer of the two; at most REACH
    undecided: list[int]  # pairs so near to the threshold that rounding could decide whether they are linked


def gap(distances: Floats, threshold: float) -> Gap:
    """Return what lies around the threshold; distances: [P], complete up to threshold + REACH."""
    linked, beyond = np.flatnonzero(distances <= threshold), np.flatnonzero(distances > threshold)
    apart = np.abs(distances - threshold)
    return Gap(
        below=int(linked[distances[linked].argmax()]) if len(linked) else None,
        above=int(beyond[distances[beyond].argmin()]) if len(beyond) else None,
        margin=float(min(apart.min(initial=REACH), REACH)),
        undecided=np.flatnonzero(apart < ROUNDING).tolist(),
    )


def _range_pairs(search: Callable[..., Any], queries: NDArray[Any], radius: float, parameter: str, change: str) -> Ints:
    found = [np.empty((0, 2), np.int64)]
    total = 0
    for start in range(0, len(queries), BLOCK):
        limits, _, neighbours = search(queries[start : start + BLOCK], radius)
        rows = np.repeat(np.arange(start, start + len(limits) - 1), np.diff(limits.astype(np.int64)))
        pairs = np.stack([rows, neighbours], axis=1)[rows < neighbours]
        total += len(pairs)
        if total > PAIRS_PER_IMAGE * len(queries):
            raise InputError(
                f"params.yaml: {parameter} finds more than {total} pairs among {len(queries)} images; {change} it"
            )
        found.append(pairs)
    return np.concatenate(found)


def _sorted(pairs: Ints) -> Ints:
    return np.unique(np.sort(pairs, axis=1), axis=0)


def hash_distances(hashes: NDArray[np.uint64], pairs: Ints) -> Ints:
    """Return the number of different bits of each pair: [P]."""
    distances: Ints = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]).astype(np.int64)
    return distances


def cosine_distances(features: NDArray[np.float32], pairs: Ints) -> Floats:
    """Return 1 - cosine of each pair of features of length one: [P], in [0, 2], summed in float64."""
    a, b = (features[pairs[:, side]].astype(np.float64) for side in (0, 1))
    distances: Floats = np.clip(1 - np.einsum("pd,pd->p", a, b), 0, 2)
    return distances


def components(n: int, pairs: Ints) -> Ints:
    """Return for each of n images the smallest index among those it is linked with, directly or not: [N]."""
    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, component = connected_components(links, directed=False)
    _, first = np.unique(component, return_index=True)
    smallest: Ints = first[component]
    return smallest
