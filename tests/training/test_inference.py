"""From pixels to probability: against torchvision's own network, and against what training validates with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet, resnet34
from torchvision.transforms import functional
from trained import recipe

from faces.training import inference, loop
from faces.training.features import FrozenFeatures, Images
from faces.training.inference import Classifier
from faces.training.model import Tail
from faces.training.transforms import IMAGENET_MEAN, IMAGENET_STD

SIZES = {"resize": 40, "crop": 48, "evaluation_crop": 56}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> ResNet:
    torch.manual_seed(0)
    return resnet34(num_classes=2).eval()


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """Return noise, its left half brighter, so that a mirror image is another one."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 160, (19, 3, 40, 40), dtype=np.uint8)
    noise[..., :20] += 90
    return torch.from_numpy(noise)


def plain(network: ResNet, pixels: torch.Tensor, mirrored: bool) -> torch.Tensor:
    """Return the probabilities image by image, with torchvision's transforms."""
    found = []
    for one in pixels:
        picture = functional.resize(Image.fromarray(one.permute(1, 2, 0).numpy()), [56, 56])
        if mirrored:
            picture = functional.hflip(picture)
        x = functional.normalize(functional.to_tensor(picture), list(IMAGENET_MEAN), list(IMAGENET_STD))
        with torch.inference_mode():
            found.append(network(x[None]).double().softmax(dim=1)[0, 1])
    return torch.stack(found)


@pytest.mark.parametrize("freeze", ["none", "stem", "layer3", "layer4"])
@pytest.mark.parametrize("flip", [False, True])
def test_it_is_torchvisions_network(network: ResNet, pixels: torch.Tensor, freeze: str, flip: bool) -> None:
    chosen = recipe(freeze=freeze, precision="fp32", transforms={**SIZES, "evaluation_flip": flip})
    found = Classifier(network, chosen).predict_proba(pixels[:4])
    direct, mirrored = (plain(network, pixels[:4], mirror) for mirror in (False, True))
    expected = (direct + mirrored) / 2 if flip else direct
    assert found.dtype == np.float64
    assert found == pytest.approx(expected.numpy(), abs=1e-5)
    assert found.round(6).tolist() == found.tolist()
    assert (direct - mirrored).abs().max() > 1e-3  # it matters which


def test_it_is_what_the_training_validated_with(
    network: ResNet, pixels: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last digit, in the precision of the training, through the features that the training keeps."""
    monkeypatch.setenv("FACES_CACHE", str(tmp_path))
    chosen = recipe(freeze="layer3", precision="bf16", transforms=SIZES)
    frozen = FrozenFeatures(network, chosen, 1, CPU)
    features = frozen.clean(Images(pixels, torch.zeros(19), "pixels"), torch.arange(19))
    logits = loop.predict(Tail(network, "layer3", "bf16"), features, CPU)
    expected = logits.double().softmax(dim=1)[:, 1].numpy().round(6)
    assert Classifier(network, chosen).predict_proba(pixels).tolist() == expected.tolist()


@pytest.mark.parametrize("n", [0, 1, 5])
def test_any_number_of_images_in_batches_of_any_size(
    network: ResNet, pixels: torch.Tensor, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = Classifier(network, recipe(precision="fp32", transforms=SIZES))
    expected = classifier.predict_proba(pixels)[:n]
    monkeypatch.setattr(inference, "BATCH", {"cpu": 4})
    found = classifier.predict_proba(pixels[:n])
    assert found.shape == (n,)
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_change_is_made_to_what_the_network_sees(network: ResNet, pixels: torch.Tensor) -> None:
    classifier = Classifier(network, recipe(precision="fp32", transforms=SIZES))
    shapes = []

    def black(seen: torch.Tensor) -> torch.Tensor:
        shapes.append((tuple(seen.shape), seen.dtype))
        return torch.zeros_like(seen)

    found = classifier.predict_proba(pixels, black)
    assert len(set(found.tolist())) == 1
    assert set(shapes) == {((16, 3, 56, 56), torch.uint8), ((3, 3, 56, 56), torch.uint8)}
