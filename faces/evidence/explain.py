"""Where the network looks: Grad-CAM on the last residual block, and pictures with a part hidden.

Class index everywhere: 0 = healthy, 1 = Down syndrome.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.models import ResNet

from faces.training.model import Body, Tail
from faces.training.transforms import IMAGENET_MEAN

MIDDLE = 0.5  # area of the central square: with half, both masks hide equally much
BATCH = 32  # changes memory and speed, not results

Hidden = Literal["nothing", "middle", "surroundings"]
Array = npt.NDArray[np.float32]


def grad_cam(network: ResNet, images: Tensor, classes: npt.NDArray[np.int64]) -> Array:
    """Return the Grad-CAM map [N, H, W] of images uint8 [N, 3, H, W] for a class [N] of each, in float32.

    Maps are not negative and sum to 1 per image (0 where nothing speaks for the class), so that every
    image counts the same in an average. Source: Selvaraju et al., "Grad-CAM", ICCV 2017, equations 1 and 2.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    # cut before the last stage, whatever the run froze: gradients are needed of its last block alone
    body, tail = Body(network, "layer3", "fp32"), Tail(network, "layer3", "fp32").eval()
    cam = LayerGradCam(tail, network.layer4[-1])
    maps = []
    for batch, target in zip(torch.split(images, BATCH), torch.split(torch.from_numpy(classes), BATCH), strict=True):
        features = body(batch)
        heat = cam.attribute(features, target=target.to(features.device), relu_attributions=True).detach()
        heat = LayerAttribution.interpolate(heat, batch.shape[2:], interpolate_mode="bilinear")[:, 0]
        mass = heat.sum((1, 2), keepdim=True)
        maps.append(heat / mass.where(mass > 0, torch.ones_like(mass)))
    return torch.cat(maps).cpu().numpy()


def middle_mask(size: int, area: float = MIDDLE) -> npt.NDArray[np.bool_]:
    """Return a mask [size, size], true in the central square that covers `area` of the picture."""
    margin = round(size * (1 - area**0.5) / 2)
    mask = np.zeros((size, size), dtype=np.bool_)
    mask[margin : size - margin, margin : size - margin] = True
    return mask


def hide(images: Tensor, part: Hidden) -> Tensor:
    """Return images uint8 [N, 3, S, S] with a part painted in ImageNet's mean colour, the network's zero."""
    if part == "nothing":
        return images
    mask = torch.from_numpy(middle_mask(images.shape[-1])).to(images.device)
    colour = (255 * torch.tensor(IMAGENET_MEAN, device=images.device)).round().to(torch.uint8).view(3, 1, 1)
    return torch.where(mask if part == "middle" else ~mask, colour, images)


def overlay(image: npt.NDArray[np.uint8], heat: Array) -> npt.NDArray[np.uint8]:
    """Blend a map [H, W] over its photograph [3, H, W]; returns [H, W, 3]. For the cache, never for Git."""
    from matplotlib import colormaps

    scaled = heat / heat.max() if heat.max() > 0 else heat
    colour = colormaps["viridis"](scaled)[..., :3] * 255
    blended = 0.5 * image.transpose(1, 2, 0) + 0.5 * colour
    return blended.round().astype(np.uint8)
