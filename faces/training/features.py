"""What the frozen body makes of the images, computed once per epoch and shared by every run that draws the same.

Augmentation is a function of (seed, epoch, row), and the frozen body never changes, so its output for an epoch does
not depend on batch size or learning rate: trials that differ only in these read each other's features. Those of
validation images, which nothing random enters, are computed once for all epochs.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchvision.models import ResNet

from faces.files import file_sha256
from faces.images import align, decode
from faces.training import cache, machine, model, transforms
from faces.training.recipe import Recipe, Transforms, evaluation_size

# Images that go through the body at once, whatever the run's batch size. Few on a CPU: larger layers' outputs would be
# mapped anew by the system each time, and their first touch costs a sixth of the body's time.
CHUNK = {"cpu": 16, "cuda": 64}

DECODERS = ("pillow", "simplejpeg", "pi-heif", "opencv-python-headless")  # by whose versions pixels may differ

Progress = Callable[[int], object]  # told how many more images are done


@dataclass(frozen=True)
class Images:
    """A subset's decoded images: pixels uint8 [N, 3, size, size], y_true int64 [N], and a key of their content.

    unaligned: how many of them are seen whole because no face was found, in a run that aligns faces.
    """

    pixels: Tensor
    y_true: Tensor
    key: str
    unaligned: int = 0


def load_subset(
    root: Path,
    split: pd.DataFrame,
    subset: str,
    transforms: Transforms,
    landmarks: Mapping[str, align.Points] = MappingProxyType({}),
) -> Images:
    """Decode the images of a subset (its rows of the split, in their order), or map them if they were before.

    landmarks: of the images with a face, by path; used if `transforms.align` asks for it.
    """
    size = transforms.resize
    rows = split[split["subset"] == subset]
    paths = [str(path) for path in rows["path"]]
    content = hashlib.sha256()
    for path in paths:
        content.update(bytes.fromhex(file_sha256(root / path)))
    aligned = {path: landmarks[path] for path in paths if path in landmarks} if transforms.align else {}
    key = cache.fingerprint(
        kind="pixels",
        content=content.hexdigest(),
        size=size,
        align=transforms.align,
        landmarks=hashlib.sha256(align.content(aligned, paths)).hexdigest(),
        decoders=list(map(version, DECODERS)),
        code=cache.code(align, decode),
    )

    def fill(out: Tensor) -> None:
        pixels = out.permute(0, 3, 1, 2).numpy()
        decode.load(root, paths, size, out=pixels, landmarks=aligned, share=transforms.align or 1.0)

    pixels = cache.array(key, (len(paths), size, size, 3), torch.uint8, fill)
    y_true = torch.from_numpy(rows["y_true"].to_numpy(dtype=np.int64, copy=True))
    return Images(pixels.permute(0, 3, 1, 2), y_true, key, len(paths) - len(aligned) if transforms.align else 0)


class FrozenFeatures:
    """The body's features of any images, in any epoch."""

    def __init__(self, network: ResNet, recipe: Recipe, seed: int, device: torch.device) -> None:
        self.body = model.Body(network, recipe.freeze, recipe.precision).to(device)
        self.transforms = recipe.transforms
        self.epochs = recipe.max_epochs
        self.seed = seed
        self.device = device
        self.shapes: dict[int, tuple[int, int, int]] = {}  # picture size -> (C, h, w)
        self.computed = self.reused = 0  # images
        self.facts = {
            "kind": "features",
            "weights": _sha256(self.body),
            "freeze": recipe.freeze,
            "transforms": recipe.transforms.model_dump(mode="json"),
            "machine": machine.arithmetic(device.type, recipe.precision),
            "chunk": CHUNK[device.type],
            "code": cache.code(align, decode, model, transforms),
        }

    def train(self, subset: Images, rows: Tensor, epoch: int, progress: Progress) -> Tensor:
        """Return the features [n, C, h, w] of these rows [n] of `subset`, augmented as they are in an epoch."""
        draws = transforms.draw(len(subset.pixels), self.transforms, self.seed, epoch, self.epochs)
        size = transforms.crop_size(self.transforms, epoch, self.epochs)

        def seen(images: Tensor, chosen: transforms.Rows) -> Tensor:
            return transforms.augment(images, draws.of(chosen), size)

        return self._features(subset, rows, seen, size, progress, seed=self.seed, epoch=epoch, epochs=self.epochs)

    def clean(self, subset: Images, rows: Tensor, mirrored: bool = False) -> Tensor:
        """Return the features [n, C, h, w] of these rows [n] of `subset`, as evaluation sees them."""
        size = evaluation_size(self.transforms)

        def seen(images: Tensor, chosen: transforms.Rows) -> Tensor:
            resized = transforms.resize(images, size)
            return resized.flip(3) if mirrored else resized

        return self._features(subset, rows, seen, size, progress=lambda n: None, mirrored=mirrored)

    def _features(
        self,
        subset: Images,
        rows: Tensor,
        seen: Callable[[Tensor, transforms.Rows], Tensor],
        size: int,
        progress: Progress,
        **draw: int,
    ) -> Tensor:
        """seen: from the pixels of some rows, and these rows' numbers, to what the network sees of them."""
        n = len(rows)
        computed = 0
        order = rows.numpy()  # a tensor of a single row would take a dimension from the arrays that it indexes
        pixels = subset.pixels.permute(0, 2, 3, 1)  # [N, size, size, 3], as they lie in memory

        def fill(out: Tensor) -> None:  # [N, h, w, C]: channels last, as the body computes and the tail reads them
            nonlocal computed
            step = CHUNK[self.device.type]
            for start in range(0, n, step):
                here = slice(start, start + step)
                batch = seen(pixels[order[here]].permute(0, 3, 1, 2), order[here])
                out[here] = self.body(batch.to(self.device)).permute(0, 2, 3, 1).cpu()
                progress(len(batch))
                computed += len(batch)

        channels, height, width = self._shape(size)
        chosen = hashlib.sha256(order.tobytes()).hexdigest()
        key = cache.fingerprint(**self.facts, images=subset.key, rows=chosen, size=size, **draw)
        features = cache.array(key, (n, height, width, channels), self.body.dtype, fill)
        progress(n - computed)
        self.computed += computed
        self.reused += n - computed
        return features.permute(0, 3, 1, 2)

    def _shape(self, size: int) -> tuple[int, int, int]:
        if size not in self.shapes:
            probe = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=self.device)
            channels, height, width = self.body(probe).shape[1:]
            self.shapes[size] = channels, height, width
        return self.shapes[size]


def _sha256(body: model.Body) -> str:
    digest = hashlib.sha256()
    for name, tensor in body.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().float().numpy().tobytes())
    return digest.hexdigest()
