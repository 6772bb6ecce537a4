"""How the search for duplicates grows: CPU seconds and peak memory at 3,000, 30,000 and 300,000 images.

    python -m benchmarks.duplicates [n ...]

Generated hashes and features with duplicates planted at the distances found among real photographs; each size
runs in a process of its own, so that its peak memory is its own. CPU seconds, summed over the threads, do not
depend on what else the machine does. docs/data.md has the results.
"""

import multiprocessing
import resource
import time
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from faces.cli import run
from faces.images.duplicates import feature_pairs, hash_pairs

SIZES = (3_000, 30_000, 300_000)
PLANTED = 0.02  # share of the images that are a near duplicate of another
HASH_DISTANCE, FEATURE_DISTANCE = 4, 0.05
WIDTH, RANK = 512, 64  # features, and the directions in which they vary


def measure(n: int) -> dict[str, float]:
    """Return CPU seconds, megabytes, and the share of planted pairs found, for n images."""
    rng = np.random.default_rng(0)
    planted = int(PLANTED * n)
    hashes = rng.integers(0, 2**64, n, np.uint64)
    bits = rng.integers(0, 64, (planted, HASH_DISTANCE), np.uint64)
    hashes[-planted:] = hashes[:planted] ^ np.bitwise_xor.reduce(np.uint64(1) << bits, axis=1)
    features = _features(n, planted, rng)

    start = time.process_time()
    by_hash = hash_pairs(hashes, HASH_DISTANCE)
    middle = time.process_time()
    by_features, _ = feature_pairs(features, FEATURE_DISTANCE)
    end = time.process_time()
    return {
        "hash seconds": middle - start,
        "feature seconds": end - middle,
        "megabytes": _megabytes(),
        "found by hash": _share(by_hash, n, planted),
        "found by features": _share(by_features, n, planted),
    }


def _features(n: int, planted: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return features of length one whose cosine distances are about 0.3, those of planted pairs about 0.02."""
    directions = rng.normal(size=(RANK, WIDTH)).astype(np.float32) / WIDTH**0.5
    features = rng.normal(size=(n, RANK)).astype(np.float32) * (0.65 / RANK**0.5) @ directions
    features[:, 0] += 1
    noise = rng.normal(size=(planted, WIDTH)).astype(np.float32)
    features[-planted:] = features[:planted] + noise * (0.2 / WIDTH**0.5)
    unit: NDArray[np.float32] = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit


def _share(pairs: NDArray[np.int64], n: int, planted: int) -> float:
    return float(np.sum((pairs[:, 0] < planted) & (pairs[:, 1] == pairs[:, 0] + n - planted)) / planted)


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in kilobytes


def main(sizes: Annotated[list[int] | None, typer.Argument(min=1, help="numbers of images")] = None) -> None:
    """Measure each number of images in a process of its own."""
    print("| images | hashes | features | peak memory | planted pairs found by hash | by features |")
    print("|---|---|---|---|---|---|")
    for n in sizes or SIZES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            m = pool.apply(measure, [n])
        print(
            f"| {n:,} | {m['hash seconds']:.2f} s | {m['feature seconds']:.1f} s | {m['megabytes']:,.0f} MB "
            f"| {m['found by hash']:.1%} | {m['found by features']:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    run(main)
