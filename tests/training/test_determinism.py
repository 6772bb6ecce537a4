"""No operation of a training, an evaluation or an explanation lacks a deterministic implementation on a GPU.

There is none here to try it on. What torch calls is recorded on the CPU and compared with the operations that, by the
documentation of `torch.use_deterministic_algorithms`, raise an error on CUDA.
"""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import resnet34
from trained import recipe

from faces.evidence.explain import grad_cam
from faces.training import determinism, loop
from faces.training.inference import Classifier
from faces.training.model import Body, Tail
from faces.training.state import TrainingState

# the names that the operations of that list have inside torch
WITHOUT = (
    "avg_pool3d_backward", "adaptive_avg_pool2d_backward", "adaptive_avg_pool3d_backward",
    "adaptive_max_pool2d_backward", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward",
    "max_unpool2d", "max_unpool3d", "upsample_linear1d_backward", "upsample_bilinear2d_backward",
    "upsample_bicubic2d_backward", "upsample_trilinear3d_backward", "reflection_pad1d_backward",
    "reflection_pad2d_backward", "reflection_pad3d_backward", "nll_loss2d_forward", "_ctc_loss_backward",
    "_embedding_bag", "put", "put_", "histc", "bincount", "median", "grid_sampler_2d_backward",
    "grid_sampler_3d_backward", "scatter_reduce",
)  # fmt: skip


class Recorded(TorchDispatchMode):
    """Keeps the names of the operations that torch calls."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("freeze", ["none", "stem", "layer3"])
def test_nothing_that_is_called_lacks_a_deterministic_implementation(freeze: str) -> None:
    determinism.enable()
    chosen = recipe(
        freeze=freeze, mixup=0.2, ema_decay=0.9, label_smoothing=0.1, schedule="one-cycle", precision="fp32",
        transforms={"crop": 64, "evaluation_flip": True},
    )  # fmt: skip
    network = resnet34(num_classes=2)
    body, tail = Body(network, freeze, "fp32"), Tail(network, freeze, "fp32")
    state = TrainingState(tail, chosen, batches=2)
    pixels = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    y_true = torch.tensor([0, 1, 0, 1])
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1, reduction="sum")
    with Recorded() as seen:
        batches = [loop.Batch(body(pixels), y_true, 4, mixing) for mixing in (1.0, 0.8)]
        loop.train_one_epoch(state, tail, batches, criterion, torch.device("cpu"), lambda n: None)
        Classifier(network, chosen)(pixels)
        grad_cam(network, pixels, y_true.numpy())
    assert {"convolution", "convolution_backward", "native_batch_norm_backward"} <= seen.names
    assert not seen.names & set(WITHOUT)


def test_such_an_operation_would_be_seen() -> None:
    with Recorded() as seen:
        x = torch.zeros(1, 1, 4, 4, requires_grad=True)
        torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear").sum().backward()
    assert seen.names & set(WITHOUT) == {"upsample_bilinear2d_backward"}
