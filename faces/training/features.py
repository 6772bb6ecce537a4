"""What the frozen body makes of the images, computed once per epoch and shared by every run that draws the same.

Augmentation is a function of (seed, epoch, row), and the frozen body never changes, so its output for an epoch does
not depend on batch size or learning rate: trials that differ only in these read each other's features. Those of
validation and test images, which nothing random enters, are computed once for all epochs.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import __version__ as pillow_version
from torch import Tensor
from torchvision.models import ResNet

from faces.files import file_sha256
from faces.images import decode as images
from faces.params import Recipe, Transforms
from faces.training import cache, model, transforms

# Images that go through the body at once, whatever the run's batch size. Few on a CPU: larger layers' outputs would be
# mapped anew by the system each time, and their first touch costs a sixth of the body's time.
CHUNK = {"cpu": 16, "cuda": 64}

Progress = Callable[[int], object]  # told how many more images are done


@dataclass(frozen=True)
class Images:
    """A subset's decoded images: pixels uint8 [N, 3, size, size], y_true int64 [N], and a key of their content."""

    pixels: Tensor
    y_true: Tensor
    key: str


def load_subset(root: Path, splits: pd.DataFrame, subset: str, size: int) -> Images:
    """Decode the images of a subset (rows of splits.csv, in their order), or map them if they were before."""
    rows = splits[splits["subset"] == subset]
    paths = [str(path) for path in rows["path"]]
    content = hashlib.sha256()
    for path in paths:
        content.update(bytes.fromhex(file_sha256(root / path)))
    key = cache.fingerprint(kind="pixels", content=content.hexdigest(), size=size, pillow=pillow_version)

    def fill(out: Tensor) -> None:
        images.load(root, paths, size, out=out.permute(0, 3, 1, 2).numpy())

    pixels = cache.array(key, (len(paths), size, size, 3), torch.uint8, fill)
    y_true = torch.from_numpy(rows["y_true"].to_numpy(dtype=np.int64, copy=True))
    return Images(pixels.permute(0, 3, 1, 2), y_true, key)


class FrozenFeatures:
    """The body's features of any images, in any epoch."""

    def __init__(self, network: ResNet, recipe: Recipe, params: Transforms, seed: int, device: torch.device) -> None:
        self.body = model.Body(network, recipe.freeze, recipe.precision).to(device)
        self.params = params
        self.epochs = recipe.max_epochs
        self.seed = seed
        self.device = device
        self.shapes: dict[int, tuple[int, int, int]] = {}  # picture size -> (C, h, w)
        self.computed = self.reused = 0  # images
        self.facts = {
            "kind": "features",
            "weights": _sha256(self.body),
            "freeze": recipe.freeze,
            "precision": recipe.precision,
            "transforms": params.model_dump(mode="json"),
            "device": device.type,
            "chunk": CHUNK[device.type],
            "threads": torch.get_num_threads() if device.type == "cpu" else 0,
            "torch": torch.__version__,
            "pillow": pillow_version,
            "code": [file_sha256(Path(str(module.__file__))) for module in (images, model, transforms)],
        }

    def train(self, subset: Images, rows: Tensor, epoch: int, progress: Progress) -> Tensor:
        """Return the features [n, C, h, w] of these rows [n] of `subset`, augmented as they are in an epoch."""
        boxes, flips = transforms.draw(len(subset.pixels), self.params, self.seed, epoch)
        size = transforms.crop_in(self.params, epoch, self.epochs)
        return self._features(subset, rows, boxes, flips, size, progress, seed=self.seed, epoch=epoch)

    def clean(self, subset: Images, rows: Tensor, mirrored: bool = False) -> Tensor:
        """Return the features [n, C, h, w] of these rows [n] of `subset`, as they are in evaluation."""
        boxes, flips = transforms.whole(len(subset.pixels), self.params, mirrored)
        return self._features(
            subset, rows, boxes, flips, self.params.evaluation_size, progress=lambda n: None, mirrored=mirrored
        )

    def _features(
        self,
        subset: Images,
        rows: Tensor,
        boxes: transforms.Boxes,
        flips: np.typing.NDArray[np.bool_],
        size: int,
        progress: Progress,
        **draw: int,
    ) -> Tensor:
        n = len(rows)
        computed = 0
        order = rows.numpy()  # a tensor of a single row would take a dimension from the arrays that it indexes
        pixels = subset.pixels.permute(0, 2, 3, 1)  # [N, size, size, 3], as they lie in memory

        def fill(out: Tensor) -> None:  # [N, h, w, C]: channels last, as the body computes and the tail reads them
            nonlocal computed
            step = CHUNK[self.device.type]
            for start in range(0, n, step):
                here = slice(start, start + step)
                chunk = order[here]
                images = pixels[chunk].permute(0, 3, 1, 2)
                batch = transforms.crop(images, boxes[chunk], flips[chunk], size)
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
