"""Export a trained model to ONNX, and check that it still says the same.

    python -m faces.export models/active/model.pt model.onnx

Input `images`: uint8 [N, 3, crop, crop], RGB; the photograph resized (bilinear, antialiased) to a square of
`resize` pixels, then to one of `crop` pixels. Output `probability`: float32 [N], of Down syndrome. Inside are
normalisation, softmax and, where the run's evaluation takes it, the mean with the mirror image. The file's metadata
hold the model's SHA-256, the two sizes, and that it is no diagnostic.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.models import ResNet

from faces.cli import InputError, run
from faces.files import file_sha256, write_atomically
from faces.params import Transforms
from faces.predict import NOTICE
from faces.training.model import load_model
from faces.training.transforms import IMAGENET_MEAN, IMAGENET_STD, normalise

TOLERANCE = 1e-4  # largest difference of a probability between ONNX Runtime and PyTorch (float32) that is accepted
OPSET = 18


class Deployed(nn.Module):
    """A trained network between pixels and probability."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: ResNet, views: tuple[bool, ...]) -> None:
        super().__init__()
        self.network = network
        self.views = views
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images uint8 [N, 3, H, W] to the probability of Down syndrome, float32 [N]."""
        normalised = (images.float() - self.mean) / self.std
        views = [normalised.flip(3) if mirrored else normalised for mirrored in self.views]
        return torch.stack([self.network(view).softmax(dim=1)[:, 1] for view in views]).mean(dim=0)


def export(network: ResNet, size: int, views: tuple[bool, ...]) -> Any:
    """Return the ONNX model (onnx.ModelProto) of a network for square images of `size` pixels, any number at once.

    views: the looks at an image to take the mean of, as `Transforms.evaluation_views` has them.
    """
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    program = torch.onnx.export(
        Deployed(network, views).eval(),
        (example,),
        input_names=["images"],
        output_names=["probability"],
        opset_version=OPSET,
        dynamic_shapes={"images": {0: torch.export.Dim("n")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def difference(network: ResNet, content: bytes, images: npt.NDArray[np.uint8], views: tuple[bool, ...]) -> float:
    """Return the largest difference of a probability between ONNX Runtime and PyTorch on images [N, 3, H, W]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (there,) = session.run(["probability"], {"images": images})
    with torch.inference_mode():
        seen = [images[..., ::-1].copy() if mirrored else images for mirrored in views]
        scores = [network(normalise(torch.from_numpy(view))).softmax(dim=1)[:, 1] for view in seen]
        here = torch.stack(scores).mean(dim=0)
    return float(np.abs(there - here.numpy()).max())


def main(model: Path, out_onnx: Path) -> None:
    """Write MODEL (a model.pt with its run.json beside it) as ONNX, once it agrees with PyTorch."""
    import onnx

    network = load_model(model)
    try:
        facts = json.loads((model.parent / "run.json").read_text(encoding="utf-8"))
        transforms = Transforms.model_validate(facts["transforms"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{model.parent / 'run.json'} is needed beside the model and cannot be read") from None
    size, views = transforms.evaluation_size, transforms.evaluation_views
    exported = export(network, size, views)
    about = {"model_sha256": file_sha256(model), "resize": transforms.resize, "crop": size, "notice": NOTICE}
    onnx.helper.set_model_props(exported, {key: str(value) for key, value in about.items()})
    onnx.checker.check_model(exported, full_check=True)
    content: bytes = exported.SerializeToString()
    images = np.random.default_rng(0).integers(0, 256, (3, 3, size, size), dtype=np.uint8)
    worst = difference(network, content, images, views)
    if not worst <= TOLERANCE:
        raise InputError(f"{model}: the ONNX model's probability differs by {worst:.2g}, more than {TOLERANCE}")
    write_atomically(out_onnx, content)
    size_text = f"{len(content) / 1e6:.1f} MB"
    print(f"{out_onnx}: {size_text}, largest difference from PyTorch {worst:.1e} on {len(images)} random images")


if __name__ == "__main__":
    run(main)
