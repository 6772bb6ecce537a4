"""Subsets and folds that keep groups of duplicates together, balance the classes, and stay put.

Groups are ordered by a SHA-256 of seed and group name, so neither file order nor file system matters, and
each subset takes a stretch of that order, so one image more shifts the borders but little else. Groups of
several images go first; single images then fill every class's counts exactly.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from faces.cli import InputError

SUBSETS = ("train", "validation", "test")
TABLE_1 = {"down_syndrome": (1046, 307, 147), "healthy": (1053, 297, 150)}  # paper; in the order of SUBSETS
TOLERANCE = 0.01  # a class this much larger or smaller than Table I's takes the difference from training


class Image(NamedTuple):
    """One image to place: its own path, its class, and the name of the group it must stay with."""

    path: str
    label: str
    group: str


def counts(n: int, shares: Sequence[float]) -> list[int]:
    """Return whole numbers that sum to n, each less than one from its share (largest remainders)."""
    exact = [n * share / sum(shares) for share in shares]
    whole = [int(value + 1e-9) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda part: (whole[part] - exact[part], part))
    for part in by_remainder[: n - sum(whole)]:
        whole[part] += 1
    return whole


def paper_counts(label: str, n: int) -> list[int]:
    """Return Table I's counts for a class of n images, a small difference taken from training.

    `InputError` if n is more than 1% away from the table's sum.
    """
    table = list(TABLE_1[label])
    if abs(n - sum(table)) > TOLERANCE * sum(table):
        raise InputError(
            f"split.scheme paper: Table I has {sum(table)} {label} images, the data has {n}; "
            "use split.scheme stratified"
        )
    return [table[0] + n - sum(table), *table[1:]]


def assign(images: Sequence[Image], quotas: Mapping[str, Sequence[int]], seed: int, salt: str) -> list[int]:
    """Return the part (0 ... k-1) of each image, groups kept whole and each class's counts met.

    quotas: label -> k counts that sum to the class's size. A count is missed only if there are too few
    single images to even out the groups. seed and salt ("subset", "fold") choose among equal splits.
    """
    members: dict[str, list[int]] = {}
    for index, image in enumerate(images):
        members.setdefault(image.group, []).append(index)
    ordered = sorted(members, key=lambda group: _key(seed, salt, group))

    shares = np.sum([quotas[label] for label in quotas], axis=0)
    parts = np.full(len(images), -1)
    for stratum in [{label} for label in quotas] + [set(quotas)]:
        several = [members[group] for group in ordered if len(members[group]) > 1]
        chosen = [group for group in several if {images[i].label for i in group} == stratum]
        weights = quotas[min(stratum)] if len(stratum) == 1 else shares
        for group, part in zip(chosen, _stretches([len(group) for group in chosen], weights), strict=True):
            parts[group] = part
    for label, quota in quotas.items():
        placed = [parts[i] for i, image in enumerate(images) if image.label == label and parts[i] >= 0]
        singles = [i for group in ordered for i in members[group] if parts[i] < 0 and images[i].label == label]
        left = np.maximum(np.asarray(quota) - np.bincount(placed, minlength=len(quota)), 0)
        parts[singles] = _stretches([1] * len(singles), left)
    return [int(part) for part in parts]


def by_folder(images: Sequence[Image]) -> list[int]:
    """Return the part of each image by the folder it lies in, `<class>/<subset>/...`; `InputError` if one lies in none.

    Groups are not looked at: the source's own split may have duplicates on two sides.
    """
    folders = [image.path.split("/")[1] for image in images]
    outside = [image.path for image, folder in zip(images, folders, strict=True) if folder not in SUBSETS]
    if outside:
        raise InputError(
            f"split.scheme folders: {len(outside)} of {len(images)} images lie in none of the folders "
            f"{', '.join(SUBSETS)} ({outside[0]}, ...); use split.scheme stratified"
        )
    return [SUBSETS.index(folder) for folder in folders]


def _key(seed: int, salt: str, group: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{salt}\n{group}".encode()).digest()


def _stretches(sizes: Sequence[int], weights: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut a row of groups into parts by weight; a group belongs where its middle lies."""
    if not sizes:
        return np.empty(0, np.int64)
    ends = np.cumsum(sizes)
    borders = np.cumsum(counts(int(ends[-1]), list(weights)))
    return np.searchsorted(borders, ends - np.asarray(sizes) / 2, side="right")
