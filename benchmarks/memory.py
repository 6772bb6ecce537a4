"""How the memory of training grows with the number of images: python -m benchmarks.memory 3000 30000 300000

For each count, in a process of its own: images are drawn (noise, 32x32 pixels, JPEG files), decoded, augmented, taken
through a body that is a single layer (memory does not depend on how deep it is), and the head is trained on them for
one epoch and evaluated on as many, with the functions that `stages/train.py` uses. Pixels and features lie in files
that are mapped into memory: what counts is the memory that the system cannot take back by itself, the process's
anonymous memory, and its peak is printed.
"""

import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from faces.cli import run
from faces.naming import LABELS

SIDE = 32  # pixels; what is kept in memory does not depend on it, what is kept on the disk does
DISTINCT = 500  # drawn images of each class, the others are their copies under other names


def anonymous() -> int:
    """Return this process's anonymous resident memory in bytes; Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon: this needs Linux")


def draw(root: Path, n: int) -> list[str]:
    """Write n noisy JPEG files, half of each class, and return their paths relative to `root`."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    paths = []
    for y_true, label in enumerate(LABELS):
        (root / label).mkdir(parents=True)
        for i in range(n // 2):
            path = root / label / f"{i}.jpg"
            if i < DISTINCT:
                pixels = rng.integers(0, 200, (SIDE, SIDE, 3)) + 50 * y_true
                Image.fromarray(pixels.astype(np.uint8)).save(path)
            else:
                path.hardlink_to(root / label / f"{i % DISTINCT}.jpg")
            paths.append(f"{label}/{path.name}")
    return paths


def measure(n: int) -> None:
    """Train on n images for one epoch, and print the number, peak memory, disk space and seconds."""
    import pandas as pd
    import torch
    from torch import nn
    from torchvision.models import resnet34

    from faces.params import load_params
    from faces.training import loop
    from faces.training.checkpoint import Checkpoint
    from faces.training.features import FrozenFeatures, load_subset
    from faces.training.model import Tail
    from faces.training.recipe import ACTIVE, resolve
    from faces.training.state import TrainingState

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ |= {"FACES_CACHE": str(root / "cache"), "FACES_CACHE_GB": "1000"}
        paths = draw(root / "data", n)
        sizes = {"resize": SIDE, "crop": SIDE}
        change = {"batch_size": 256, "freeze": "layer4", "max_epochs": 1, "patience": 1, "precision": "fp32"}
        recipe = resolve(load_params(), ACTIVE).recipe
        recipe = recipe.model_copy(update={**change, "transforms": recipe.transforms.model_copy(update=sizes)})
        network = resnet34(num_classes=2)
        before, peak, done = anonymous(), 0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.02):
                peak = max(peak, anonymous())

        watcher = threading.Thread(target=watch)
        watcher.start()
        started = time.perf_counter()
        table = pd.DataFrame({"path": paths, "subset": "train", "y_true": [int("down" in path) for path in paths]})
        images = load_subset(root / "data", table, "train", SIDE)
        frozen = FrozenFeatures(network, recipe, 1, torch.device("cpu"))
        frozen.body.layers = nn.Sequential(nn.AvgPool2d(SIDE), nn.Conv2d(3, 512, 1))
        tail = Tail(network, recipe.freeze, recipe.precision)
        state = TrainingState(tail, recipe, batches=math.ceil(n / recipe.batch_size))
        loop.fit(state, frozen, images, images, recipe, 1, Checkpoint("k"), lambda history: None, lambda n: None)
        seconds = time.perf_counter() - started
        done.set()
        watcher.join()
        disk = sum(path.stat().st_size for path in (root / "cache").rglob("*.bin"))
        print(f"| {n} | {before / 1e6:.0f} | {peak / 1e6:.0f} | {disk / 1e6:.0f} | {seconds:.0f} |", flush=True)


def main(counts: Annotated[list[int], typer.Argument(min=1, help="numbers of images")]) -> None:
    """Measure each count in a process of its own."""
    print("| images | MB before the images | peak MB | MB on disk | seconds |\n|---:|---:|---:|---:|---:|", flush=True)
    for n in counts:
        subprocess.run([sys.executable, "-c", f"from benchmarks.memory import measure; measure({n})"], check=True)


if __name__ == "__main__":
    run(main)
