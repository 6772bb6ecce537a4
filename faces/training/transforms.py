"""The paper's augmentation and ours, drawn for a whole epoch at once and applied by Pillow in threads.

Pixels are those of torchvision's `RandomResizedCrop`, `ColorJitter` and `RandomErasing` on a PIL image for the same
draws, which follow the same distributions, but are a function of (seed, epoch, row) alone: neither batch size, nor
worker count, nor an interruption changes what an image looks like in an epoch.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from faces.training.recipe import Transforms

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1]; what the pretrained weights expect
IMAGENET_STD = (0.229, 0.224, 0.225)
BLOCK = 4096  # images whose boxes are drawn at once
ATTEMPTS = 10  # boxes tried before falling back to the largest central one, as torchvision does

ERASED_AREA = (0.02, 0.33)  # share of the picture that is erased (torchvision's default)
ERASED_RATIO = (0.3, 3.3)  # of height to width (torchvision's default)
GREY = tuple(round(255 * mean) for mean in IMAGENET_MEAN)  # what is erased becomes ImageNet's mean colour

Boxes = npt.NDArray[np.int64]  # [N, 4]: left, upper, right, lower
Rows = npt.NDArray[np.int64]
COLOURS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclass(frozen=True)
class Draws:
    """What chance decides for N images in an epoch."""

    boxes: Boxes
    flips: npt.NDArray[np.bool_]  # [N]
    colours: npt.NDArray[np.float64]  # [N, 3]: factors of brightness, contrast and colour; 1 changes nothing
    erased: npt.NDArray[np.float64]  # [N, 4]: left, upper, right, lower as shares of the side; zeros: nothing

    def of(self, rows: Rows) -> "Draws":
        """Return the draws of these rows."""
        return Draws(self.boxes[rows], self.flips[rows], self.colours[rows], self.erased[rows])


def draw(n: int, transforms: Transforms, seed: int, epoch: int, epochs: int) -> Draws:
    """Draw what happens to n images in an epoch, of 1 ... `epochs`.

    Source: Szegedy et al. 2015 (area and aspect ratio); torchvision's `RandomResizedCrop.get_params`.
    """
    scale = crop_scale(transforms, epoch, epochs)
    blocks = []
    for block, start in enumerate(range(0, max(n, 1), BLOCK)):  # the attempts of one block at a time: memory stays flat
        rng = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, block]))
        size = min(BLOCK, n - start)
        boxes, flips = _boxes(size, transforms, scale, rng)
        blocks.append(Draws(boxes, flips, _colours(size, transforms, rng), _erased(size, transforms, rng)))
    columns = zip(*((one.boxes, one.flips, one.colours, one.erased) for one in blocks), strict=True)
    return Draws(*map(np.concatenate, columns))


def _boxes(
    n: int, transforms: Transforms, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[Boxes, npt.NDArray[np.bool_]]:
    side = transforms.resize
    area = side**2 * rng.uniform(*scale, size=(n, ATTEMPTS))
    low, high = np.log(transforms.ratio)
    ratio = np.exp(rng.uniform(low, high, size=(n, ATTEMPTS)))
    where = rng.random((n, 2))
    flips = rng.random(n) < transforms.flip

    widths = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    heights = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (widths > 0) & (widths <= side) & (heights > 0) & (heights <= side)
    first = fits.argmax(axis=1)
    rows = np.arange(n)
    # no attempt fits: the largest central box whose ratio is allowed (of a square: the square itself, if it is)
    nearest = np.clip(1.0, *transforms.ratio)
    width = np.where(fits.any(axis=1), widths[rows, first], round(side * min(1.0, nearest)))
    height = np.where(fits.any(axis=1), heights[rows, first], round(side / max(1.0, nearest)))
    left = np.floor(where[:, 0] * (side - width + 1)).astype(np.int64)
    upper = np.floor(where[:, 1] * (side - height + 1)).astype(np.int64)
    central = ~fits.any(axis=1)
    left[central] = (side - width[central]) // 2
    upper[central] = (side - height[central]) // 2
    return np.stack([left, upper, left + width, upper + height], axis=1), flips


def _colours(n: int, transforms: Transforms, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    if not transforms.colour:
        return np.ones((n, len(COLOURS)))
    return rng.uniform(1 - transforms.colour, 1 + transforms.colour, size=(n, len(COLOURS)))


def _erased(n: int, transforms: Transforms, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw the boxes that are erased; the most oblong of the largest are cut to the picture."""
    if not transforms.erase:
        return np.zeros((n, 4))
    area = rng.uniform(*ERASED_AREA, size=n)
    low, high = np.log(ERASED_RATIO)
    ratio = np.exp(rng.uniform(low, high, size=n))
    height, width = np.minimum(1.0, np.sqrt(area * ratio)), np.minimum(1.0, np.sqrt(area / ratio))
    where = rng.random((n, 2))
    left, upper = where[:, 0] * (1 - width), where[:, 1] * (1 - height)
    chosen = rng.random(n) < transforms.erase
    return np.stack([left, upper, left + width, upper + height], axis=1) * chosen[:, None]


def crop_scale(transforms: Transforms, epoch: int, epochs: int) -> tuple[float, float]:
    """Return the smallest and largest share of the area that is cropped in an epoch, of 1 ... `epochs`.

    Crops nearly as large as the picture at the end bring the sizes of faces in training near those in evaluation.
    Source: Touvron et al. 2019 (the difference and what it costs); here it is mended by the crops themselves.
    """
    last = epoch > epochs - transforms.final_epochs
    return transforms.final_scale if last and transforms.final_scale is not None else transforms.scale


def crop_size(transforms: Transforms, epoch: int, epochs: int) -> int:
    """Return the side in pixels of what the network is trained on in an epoch, of 1 ... `epochs`.

    It grows from `first_crop` to `crop`, in steps of 16 pixels: small pictures are quick to learn from at first.
    Source: Howard et al., DAWNBench entry of fast.ai, 2018 (progressive resizing).
    """
    if transforms.first_crop is None:
        return transforms.crop
    missing = (transforms.crop - transforms.first_crop) * (epochs - epoch) / max(1, epochs - 1)
    return transforms.crop - 16 * round(missing / 16)


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None)


def augment(images: Tensor, draws: Draws, size: int) -> Tensor:
    """Cut each image's box, resize it to `size` (bilinear, antialiased), and mirror, recolour and erase as drawn.

    Args: images uint8 [N, 3, H, W] in any memory order; draws of N images.
    Returns: uint8 [N, 3, size, size], channels last in memory.
    """
    source = images.permute(0, 2, 3, 1).numpy()
    target = np.empty((len(source), size, size, 3), dtype=np.uint8)
    erased = np.rint(draws.erased * size).astype(np.int64)

    def one(i: int) -> None:
        left, upper, right, lower = draws.boxes[i]
        picture = Image.fromarray(np.ascontiguousarray(source[i, upper:lower, left:right]))
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        for enhance, factor in zip(COLOURS, draws.colours[i], strict=True):
            if factor != 1:
                picture = enhance(picture).enhance(factor)
        pixels = np.asarray(picture)
        target[i] = pixels[:, ::-1] if draws.flips[i] else pixels
        left, upper, right, lower = erased[i]
        target[i, upper:lower, left:right] = GREY

    for _ in _pool().map(one, range(len(source))):
        pass
    return torch.from_numpy(target).permute(0, 3, 1, 2)


def resize(images: Tensor, size: int) -> Tensor:
    """Return images uint8 [N, 3, H, W] resized to `size`, as evaluation sees them: uint8 [N, 3, size, size]."""
    n, _, height, width = images.shape
    whole = np.tile([0, 0, width, height], (n, 1))
    return augment(images, Draws(whole, np.zeros(n, dtype=np.bool_), np.ones((n, 3)), np.zeros((n, 4))), size)


def normalise(images: Tensor) -> Tensor:
    """Scale uint8 [N, 3, H, W] to float32 with ImageNet's mean 0 and standard deviation 1, channels last."""
    n, _, height, width = images.shape
    scale = 1 / (255 * torch.tensor(IMAGENET_STD, device=images.device))
    shift = -torch.tensor(IMAGENET_MEAN, device=images.device) / torch.tensor(IMAGENET_STD, device=images.device)
    # one long row of pixels at a time keeps the inner loop vectorised on CPUs
    rows = images.permute(0, 2, 3, 1).reshape(n, height, width * 3)
    rows = (rows * scale.repeat(width)).add_(shift.repeat(width))
    return rows.view(n, height, width, 3).permute(0, 3, 1, 2)
