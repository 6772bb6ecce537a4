"""Where the network looks: Grad-CAM on the last residual block, and the accuracy with part of each picture hidden.

Class index everywhere: 0 = healthy, 1 = Down syndrome.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

MIDDLE = 0.5  # area of the central square: with half, both masks hide equally much
BATCH = 32  # changes memory and speed, not results

Hidden = Literal["nothing", "middle", "surroundings"]
Array = npt.NDArray[np.float32]


class Tail(nn.Module):
    """The part of a torchvision ResNet that Grad-CAM needs gradients of: last stage, pooling, head."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.layer4, self.fc = model.layer4, model.fc

    def forward(self, features: Tensor) -> Tensor:
        """Map features [N, 256, h, w] to logits [N, 2]."""
        logits: Tensor = self.fc(
            self.layer4(features).mean(dim=(2, 3))
        )  # the model's pooling, with a deterministic gradient
        return logits


def trunk(model: Any, images: Tensor) -> Tensor:
    """Map normalised images [N, 3, H, W] to the features [N, 256, h, w] that enter the last stage."""
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    features: Tensor = model.layer3(model.layer2(model.layer1(x)))
    return features


def grad_cam(model: nn.Module, images: Tensor) -> tuple[Array, Array]:
    """Return logits [N, 2] and each image's Grad-CAM map [N, H, W] for the class the network predicts.

    Maps are not negative and sum to 1 per image (0 where nothing speaks for the class), so that every
    image counts the same in an average. Source: Selvaraju et al., "Grad-CAM", ICCV 2017, equations 1 and 2.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    model.eval()
    tail = Tail(model).eval()
    cam = LayerGradCam(tail, tail.layer4[-1])
    logits, maps = [], []
    for batch in torch.split(images, BATCH):
        with torch.no_grad():
            features = trunk(model, batch)
            logits.append(tail(features))
        heat = cam.attribute(features, target=logits[-1].argmax(1), relu_attributions=True).detach()
        heat = LayerAttribution.interpolate(heat, batch.shape[2:], interpolate_mode="bilinear")[:, 0]
        total = heat.sum((1, 2), keepdim=True)
        maps.append(heat / total.where(total > 0, torch.ones_like(total)))
    return torch.cat(logits).cpu().numpy(), torch.cat(maps).cpu().numpy()


def middle_mask(size: int, area: float = MIDDLE) -> npt.NDArray[np.bool_]:
    """Return a mask [size, size], true in the central square that covers `area` of the picture."""
    margin = round(size * (1 - area**0.5) / 2)
    mask = np.zeros((size, size), dtype=np.bool_)
    mask[margin : size - margin, margin : size - margin] = True
    return mask


def hide(images: Tensor, part: Hidden) -> Tensor:
    """Return normalised images [N, 3, S, S] with a part painted in ImageNet's mean colour (0 when normalised)."""
    if part == "nothing":
        return images
    mask = torch.from_numpy(middle_mask(images.shape[-1])).to(images.device)
    return images.masked_fill(mask if part == "middle" else ~mask, 0.0)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, views: tuple[bool, ...] = (False,)) -> npt.NDArray[np.int64]:
    """Return the predicted class [N] of normalised images [N, 3, S, S], from the mean over `views`: mirrored or not."""
    model.eval()
    classes = []
    for batch in torch.split(images, BATCH):
        seen = [batch.flip(3) if mirrored else batch for mirrored in views]
        classes.append(torch.stack([model(view).softmax(dim=1) for view in seen]).mean(dim=0).argmax(dim=1))
    return torch.cat(classes).cpu().numpy()


def overlay(image: npt.NDArray[np.uint8], heat: Array) -> npt.NDArray[np.uint8]:
    """Blend a map [H, W] over its photograph [3, H, W]; returns [H, W, 3]. For the cache, never for Git."""
    from matplotlib import colormaps

    scaled = heat / heat.max() if heat.max() > 0 else heat
    colour = colormaps["viridis"](scaled)[..., :3] * 255
    blended = 0.5 * image.transpose(1, 2, 0) + 0.5 * colour
    return blended.round().astype(np.uint8)
