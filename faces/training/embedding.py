"""Features of the pretrained network, by which the audit finds near duplicates.

They are computed in fp32 on every machine, whatever a run's precision is: which images are grouped decides the split,
and the split must not depend on the processor. Distances of the same two images then differ by less than
`duplicates.ROUNDING` between processors.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from faces.training.model import Body, build

BATCH = 16  # images through the network at once: more are no faster, and take memory

Embedder = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


def embedder(weights: Path) -> Embedder:
    """Return a function from images, uint8 [N, 3, H, W], to pooled features of length 1, float32 [N, 512]."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    body = Body(build(weights, seed=0), freeze="layer4", precision="fp32").to(device)

    def embed(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        features = np.empty((len(images), 512), dtype=np.float32)
        # without TF32, whose ten bits of mantissa GPUs would take for fp32
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            for start in range(0, len(images), BATCH):
                rows = slice(start, start + BATCH)
                pooled = body(torch.from_numpy(images[rows]).to(device)).double().mean(dim=(2, 3))
                features[rows] = nn.functional.normalize(pooled, dim=1).cpu().numpy()
        return features

    return embed
