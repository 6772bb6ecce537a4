"""Where an epoch's time goes: python -m benchmarks.profile [--precision fp32]

The steps of training at the paper's picture size, timed one by one on noise with random weights (neither changes the
work): decoding, once for all epochs; augmentation and the frozen body, once per epoch for all trials that share it,
in pieces as small as training takes; the trained tail, per trial and in whole batches. The steps that are arithmetic
have the share that they reach of the rate of a plain matrix product of the same precision in the same process.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet34

from faces.cli import run
from faces.images import decode as images
from faces.params import load_params
from faces.training import transforms
from faces.training.features import CHUNK
from faces.training.machine import hardware, versions
from faces.training.model import DTYPES, Body, Tail
from faces.training.recipe import ACTIVE, resolve

SIDE = 2048  # of the square matrices
REPEATS = 5


def main(
    precision: Annotated[Literal["bf16", "fp32"], typer.Option(help="of the network's matrix work")] = "bf16",
    batch_size: Annotated[int, typer.Option(min=2, help="images that the trained tail takes at once")] = 64,
) -> None:
    """Print milliseconds per image (median of the repetitions) and the share of the matrix rate, step by step."""
    sizes = resolve(load_params(), ACTIVE).recipe.transforms
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = resnet34(num_classes=2)
    body = Body(network, "layer3", precision).to(device)
    tail = Tail(network, "layer3", precision).to(device).train()
    optimizer = torch.optim.AdamW(tail.parameters(), lr=1e-4, fused=True)
    rng = np.random.default_rng(0)
    chunk = CHUNK[device.type]
    noise = rng.integers(0, 256, (batch_size, sizes.resize, sizes.resize, 3), dtype=np.uint8)
    pixels = torch.from_numpy(noise).permute(0, 3, 1, 2)  # [N, 3, H, W]
    draws = transforms.draw(batch_size, sizes, seed=0, epoch=1, epochs=1)
    cropped = transforms.augment(pixels, draws, sizes.crop).to(device)
    pieces = [slice(start, start + chunk) for start in range(0, batch_size, chunk)]
    drawn = [(pixels[piece], draws.of(np.arange(batch_size)[piece])) for piece in pieces]
    normalised = transforms.normalise(cropped).to(body.dtype)
    features = body(cropped)
    y_true = torch.arange(batch_size, device=device) % 2

    def loss() -> Tensor:
        return torch.nn.functional.cross_entropy(tail(features), y_true)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{i}.jpg" for i in range(batch_size)]
        for path, picture in zip(paths, noise, strict=True):
            Image.fromarray(picture).save(Path(folder) / path)
        steps: dict[str, Callable[[], object]] = {
            "decode and resize (once)": lambda: images.load(Path(folder), paths, sizes.resize),
            "augment": lambda: [transforms.augment(*piece, sizes.crop) for piece in drawn],
            "normalise": lambda: [transforms.normalise(piece).to(body.dtype) for piece in torch.split(cropped, chunk)],
            "frozen body": lambda: [body.layers(piece) for piece in torch.split(normalised, chunk)],
            "trained tail, forward": loss,
            "trained tail, forward, backward and AdamW": step,
        }
        print(f"{hardware(device.type)}; {', '.join(f'{k} {v}' for k, v in versions().items())}; {precision}, ", end="")
        rate = _matrix_rate(DTYPES[precision], device)
        print(f"batches of {batch_size}; a {SIDE} x {SIDE} matrix product runs at {rate / 1e9:.0f} GFLOP/s\n")
        print(
            "| step | ms per image | min to max | GFLOP per image | share of the matrix rate |\n"
            "|---|---:|---:|---:|---:|"
        )
        for name, work in steps.items():
            with FlopCounterMode(display=False) as counter:
                work()
            flops = counter.get_total_flops() / batch_size
            seconds = [t / batch_size for t in _times(work, device)]
            median = statistics.median(seconds)
            share = f"{flops / 1e9:.2f} | {flops / median / rate:.0%}" if flops else "| "
            print(f"| {name} | {median * 1e3:.2f} | {min(seconds) * 1e3:.2f} to {max(seconds) * 1e3:.2f} | {share} |")


def _times(work: Callable[[], object], device: torch.device) -> list[float]:
    seconds = []
    for _ in range(REPEATS + 1):  # the first warms up
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def _matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    a, b = (torch.randn(SIDE, SIDE, device=device).to(dtype) for _ in range(2))
    return float(2 * SIDE**3 / statistics.median(_times(lambda: a @ b, device)))


if __name__ == "__main__":
    run(main)
