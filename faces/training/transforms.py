"""The paper's augmentation, drawn for a whole epoch at once and applied by Pillow in threads.

Pixels are those of torchvision's `RandomResizedCrop` on a PIL image for the same box; the boxes and flips follow
the same distribution, but are a function of (seed, epoch, row) alone: neither batch size, nor worker count, nor
an interruption changes what an image looks like in an epoch.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from faces.training.recipe import Transforms

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1]; what the pretrained weights expect
IMAGENET_STD = (0.229, 0.224, 0.225)
BLOCK = 4096  # images whose boxes are drawn at once
ATTEMPTS = 10  # boxes tried before falling back to the largest central one, as torchvision does

Boxes = npt.NDArray[np.int64]  # [N, 4]: left, upper, right, lower


def draw(n: int, params: Transforms, seed: int, epoch: int) -> tuple[Boxes, npt.NDArray[np.bool_]]:
    """Draw one epoch's crop boxes [n, 4] and flips [n].

    Source: Szegedy et al. 2015 (area and aspect ratio); torchvision's `RandomResizedCrop.get_params`.
    """
    boxes, flips = np.empty((n, 4), dtype=np.int64), np.empty(n, dtype=np.bool_)
    for block, start in enumerate(range(0, n, BLOCK)):  # the attempts of one block at a time: memory stays flat
        rows = slice(start, min(start + BLOCK, n))
        rng = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, block]))
        boxes[rows], flips[rows] = _draw_block(rows.stop - start, params, rng)
    return boxes, flips


def _draw_block(n: int, params: Transforms, rng: np.random.Generator) -> tuple[Boxes, npt.NDArray[np.bool_]]:
    side = params.resize
    area = side**2 * rng.uniform(*params.scale, size=(n, ATTEMPTS))
    low, high = np.log(params.ratio)
    ratio = np.exp(rng.uniform(low, high, size=(n, ATTEMPTS)))
    where = rng.random((n, 2))
    flips = rng.random(n) < params.flip

    widths = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    heights = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (widths > 0) & (widths <= side) & (heights > 0) & (heights <= side)
    first = fits.argmax(axis=1)
    rows = np.arange(n)
    # no attempt fits: the largest central box whose ratio is allowed (of a square: the square itself, if it is)
    nearest = np.clip(1.0, *params.ratio)
    width = np.where(fits.any(axis=1), widths[rows, first], round(side * min(1.0, nearest)))
    height = np.where(fits.any(axis=1), heights[rows, first], round(side / max(1.0, nearest)))
    left = np.floor(where[:, 0] * (side - width + 1)).astype(np.int64)
    upper = np.floor(where[:, 1] * (side - height + 1)).astype(np.int64)
    central = ~fits.any(axis=1)
    left[central] = (side - width[central]) // 2
    upper[central] = (side - height[central]) // 2
    return np.stack([left, upper, left + width, upper + height], axis=1), flips


def crop_in(params: Transforms, epoch: int, epochs: int) -> int:
    """Return the side in pixels of what the network is trained on in an epoch, of 1 ... `epochs`.

    It grows from `first_crop` to `crop`, in steps of 16 pixels: small pictures are quick to learn from at first.
    Source: Howard et al., DAWNBench entry of fast.ai, 2018 (progressive resizing).
    """
    if params.first_crop is None:
        return params.crop
    missing = (params.crop - params.first_crop) * (epochs - epoch) / max(1, epochs - 1)
    return params.crop - 16 * round(missing / 16)


def whole(n: int, params: Transforms, mirrored: bool = False) -> tuple[Boxes, npt.NDArray[np.bool_]]:
    """Return the boxes and flips of evaluation: the whole image."""
    return np.tile(np.array([0, 0, params.resize, params.resize]), (n, 1)), np.full(n, mirrored)


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None)


def crop(images: Tensor, boxes: Boxes, flips: Sequence[bool] | npt.NDArray[np.bool_], size: int) -> Tensor:
    """Cut each image's box, resize it to `size` (bilinear, antialiased) and mirror it where `flips` says so.

    Args: images uint8 [N, 3, H, W] in any memory order; boxes [N, 4]; flips [N].
    Returns: uint8 [N, 3, size, size], channels last in memory.
    """
    source = images.permute(0, 2, 3, 1).numpy()
    target = np.empty((len(source), size, size, 3), dtype=np.uint8)

    def one(i: int) -> None:
        left, upper, right, lower = boxes[i]
        picture = Image.fromarray(np.ascontiguousarray(source[i, upper:lower, left:right]))
        pixels = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
        target[i] = pixels[:, ::-1] if flips[i] else pixels

    for _ in _pool().map(one, range(len(source))):
        pass
    return torch.from_numpy(target).permute(0, 3, 1, 2)


def normalise(images: Tensor) -> Tensor:
    """Scale uint8 [N, 3, H, W] to float32 with ImageNet's mean 0 and standard deviation 1, channels last."""
    n, _, height, width = images.shape
    scale = 1 / (255 * torch.tensor(IMAGENET_STD, device=images.device))
    shift = -torch.tensor(IMAGENET_MEAN, device=images.device) / torch.tensor(IMAGENET_STD, device=images.device)
    # one long row of pixels at a time keeps the inner loop vectorised on CPUs
    rows = images.permute(0, 2, 3, 1).reshape(n, height, width * 3)
    rows = (rows * scale.repeat(width)).add_(shift.repeat(width))
    return rows.view(n, height, width, 3).permute(0, 3, 1, 2)


def center(images: Tensor, params: Transforms) -> Tensor:
    """Return evaluation's network input, float32 [N, 3, size, size], of uint8 [N, 3, resize, resize]; not mirrored."""
    return normalise(crop(images, *whole(len(images), params), size=params.evaluation_size))
