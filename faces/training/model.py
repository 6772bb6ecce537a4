"""ResNet-34 with a two-class head: its weights, and where it is cut into a frozen body and a trained tail.

Class 0 is healthy, 1 is Down syndrome.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import ResNet, resnet34
from torchvision.models.resnet import BasicBlock

from faces.cli import InputError, out_of_memory
from faces.training.recipe import FROZEN_LAYERS
from faces.training.transforms import normalise

CLASSES = 2
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

KNOWN_WEIGHTS = {  # the start of a file's SHA-256 -> what is known of it
    "b627a593": "torchvision ResNet34_Weights.IMAGENET1K_V1",
    "0ca4ef562a1a9d9c7138b6c81ce7054f": "torchvision's IMAGENET1K_V1 convolutions in float16 (matched by fingerprint), "
    "batch-norm statistics estimated again on 1000 ImageNet images",
}


def known_as(sha256: str) -> str:
    """Return what is known of a weights file, by its SHA-256."""
    return next((what for start, what in KNOWN_WEIGHTS.items() if sha256.startswith(start)), "unknown weights")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a ResNet-34 state dict, with or without its head `fc`, as float32.

    Errors: InputError for a file that is not one, or one of another architecture, naming the first wrong key.
    """
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such weights file") from None
    except Exception as error:
        if out_of_memory(error):
            raise InputError(f"{path}: the memory does not hold it; end other programs, or raise the limit") from None
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a file of weights that can be loaded safely ({reason})") from None
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InputError(f"{path}: not a state dict (a dictionary of tensors)")
    with torch.device("meta"):
        expected = resnet34(num_classes=1000).state_dict()
    for key, tensor in expected.items():
        if key.startswith("fc.") or key.endswith("num_batches_tracked"):
            continue
        if key not in loaded:
            raise InputError(f"{path}: not a ResNet-34: it lacks {key}")
        if loaded[key].shape != tensor.shape:
            shapes = f"{tuple(loaded[key].shape)} instead of {tuple(tensor.shape)}"
            raise InputError(f"{path}: not a ResNet-34: {key} has shape {shapes}")
        if loaded[key].dtype not in (torch.float16, torch.float32):
            raise InputError(f"{path}: {key} is {loaded[key].dtype}; float16 and float32 are read")
        if not loaded[key].isfinite().all():
            raise InputError(f"{path}: {key} holds values that are not finite")
    unknown = sorted(loaded.keys() - expected.keys())
    if unknown:
        raise InputError(f"{path}: not a ResNet-34: it has {unknown[0]}, which a ResNet-34 lacks")
    return {key: value.float() if value.is_floating_point() else value for key, value in loaded.items()}


def build(weights: Path, seed: int) -> ResNet:
    """Return a pretrained ResNet-34 (float32) whose two-class head is drawn from `seed`."""
    model = _empty()
    state = {key: value for key, value in read_state_dict(weights).items() if not key.startswith("fc.")}
    model.load_state_dict(state, strict=False)
    generator = torch.Generator().manual_seed(seed)
    bound = model.fc.in_features**-0.5  # torch's own default for nn.Linear
    nn.init.uniform_(model.fc.weight, -bound, bound, generator=generator)
    nn.init.uniform_(model.fc.bias, -bound, bound, generator=generator)
    return model


def load_model(path: Path) -> ResNet:
    """Return a trained model: ResNet-34 with two classes, float32, in evaluation mode.

    It takes normalised images float32 [N, 3, H, W] and returns logits float32 [N, 2].
    """
    state = read_state_dict(path)
    if "fc.weight" not in state or state["fc.weight"].shape[0] != CLASSES:
        raise InputError(f"{path}: no trained two-class model: it has no head fc with {CLASSES} outputs")
    model = _empty()
    model.load_state_dict(state)
    return model.eval()


def _empty() -> ResNet:
    # built without drawing the weights that are loaded right after
    with torch.device("meta"):
        model = resnet34(num_classes=CLASSES)
    model = model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return model


class FrozenBlock(nn.Module):
    """A residual block (paper, equation 1) for inference, each batch norm folded into its convolution."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.conv1 = fuse_conv_bn_eval(block.conv1, block.bn1)
        self.conv2 = fuse_conv_bn_eval(block.conv2, block.bn2)
        self.shortcut = nn.Identity() if block.downsample is None else fuse_conv_bn_eval(*block.downsample)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C', H', W']."""
        out: Tensor = self.conv2(self.conv1(x).relu_())
        return out.add_(self.shortcut(x)).relu_()


class Body(nn.Module):
    """The frozen part, through layer `freeze`: uint8 images [N, 3, H, W] to features [N, C, h, w].

    Batch norms are folded into the convolutions, weights and features have the run's precision.
    """

    def __init__(self, model: ResNet, freeze: str, precision: str) -> None:
        super().__init__()
        model = model.eval()
        depth = FROZEN_LAYERS.index(freeze)
        layers: list[nn.Module] = []
        if depth >= 1:
            layers += [fuse_conv_bn_eval(model.conv1, model.bn1), nn.ReLU(inplace=True), model.maxpool]
        for layer in (model.layer1, model.layer2, model.layer3, model.layer4)[: max(0, depth - 1)]:
            layers += [FrozenBlock(block) for block in layer]
        self.layers = nn.Sequential(*layers).requires_grad_(False)
        self.dtype = DTYPES[precision]
        self.to(self.dtype).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the features of uint8 images."""
        features: Tensor = self.layers(normalise(images).to(self.dtype))
        return features


class Tail(nn.Module):
    """The trained part, after layer `freeze`: features [N, C, h, w] to logits float32 [N, 2].

    Its modules are the model's own, so training the tail trains the model.
    """

    def __init__(self, model: ResNet, freeze: str, precision: str) -> None:
        super().__init__()
        depth = FROZEN_LAYERS.index(freeze)
        stem = [nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)] if depth == 0 else []
        blocks = (model.layer1, model.layer2, model.layer3, model.layer4)[max(0, depth - 1) :]
        self.layers = nn.Sequential(*stem, *blocks)
        self.fc = model.fc
        self.precision = precision
        self.to(memory_format=torch.channels_last)

    def layers_from_the_head(self) -> list[list[nn.Parameter]]:
        """Return the parameters of each layer, the head's first, then layer4's and so on."""
        return [list(layer.parameters()) for layer in (self.fc, *reversed(list(self.layers)))]

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits; the softmax over them is the paper's equation 2."""
        with torch.autocast(features.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            pooled = self.layers(features).mean(dim=(2, 3))  # [N, 512]
            logits: Tensor = self.fc(pooled)
        return logits.float()
