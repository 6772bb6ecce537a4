"""The augmentation against torchvision's per-image transforms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import functional
from torchvision.transforms.v2 import RandomResizedCrop
from trained import recipe

from faces.training import transforms

PAPER = recipe().transforms


def pictures(n: int, side: int = 224) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (n, 3, side, side), dtype=np.uint8))


def test_crops_are_torchvisions_pixel_by_pixel() -> None:
    images = pictures(6)
    boxes, flips = transforms.draw(6, PAPER, seed=3, epoch=1)
    flips[:2] = [True, False]
    ours = transforms.crop(images, boxes, flips, size=250)
    for i, (left, upper, right, lower) in enumerate(boxes.tolist()):
        picture = Image.fromarray(images[i].permute(1, 2, 0).numpy())
        expected = functional.resized_crop(picture, upper, left, lower - upper, right - left, [250, 250])
        if flips[i]:
            expected = functional.hflip(expected)
        assert np.array_equal(ours[i].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_crops_grow_in_steps_of_16_pixels_and_end_as_asked() -> None:
    assert {transforms.crop_size(PAPER, epoch, 100) for epoch in (1, 50, 100)} == {250}  # the paper's do not
    growing = PAPER.model_copy(update={"first_crop": 112, "crop": 190})
    sizes = [transforms.crop_size(growing, epoch, 12) for epoch in range(1, 13)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (110, 190)  # whole steps below the last
    assert {(190 - size) % 16 for size in sizes} == {0}
    assert transforms.crop_size(growing, 1, 1) == 190


def test_boxes_follow_torchvisions_distribution() -> None:
    boxes, flips = transforms.draw(3000, PAPER, seed=0, epoch=0)
    torch.manual_seed(0)
    theirs = RandomResizedCrop(250, scale=PAPER.scale, ratio=PAPER.ratio)
    blank = torch.empty(3, 224, 224)
    drawn = [theirs.make_params([blank]) for _ in range(3000)]
    expected = np.array([[p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"]] for p in drawn])
    for ours, reference in (
        (boxes[:, 0], expected[:, 0]),
        (boxes[:, 1], expected[:, 1]),
        (boxes[:, 2] - boxes[:, 0], expected[:, 2] - expected[:, 0]),
        (boxes[:, 3] - boxes[:, 1], expected[:, 3] - expected[:, 1]),
    ):
        assert ks_2samp(ours, reference).pvalue > 1e-4
    assert 0.45 < flips.mean() < 0.55


@settings(max_examples=60, deadline=None)
@given(
    side=st.integers(32, 300),
    low=st.floats(0.01, 1.0),
    ratio=st.tuples(st.floats(0.2, 5.0), st.floats(0.2, 5.0)).map(sorted),
    seed=st.integers(0, 2**32 - 1),
)
def test_boxes_lie_within_the_image(side: int, low: float, ratio: list[float], seed: int) -> None:
    params = PAPER.model_copy(update={"resize": side, "scale": (low, 1.0), "ratio": (ratio[0], ratio[1])})
    boxes, _ = transforms.draw(20, params, seed, epoch=1)
    assert (boxes >= 0).all()
    assert (boxes <= side).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_epochs_and_seeds_differ_and_repeat() -> None:
    first = transforms.draw(50, PAPER, seed=1, epoch=1)[0]
    assert np.array_equal(first, transforms.draw(50, PAPER, seed=1, epoch=1)[0])
    assert not np.array_equal(first, transforms.draw(50, PAPER, seed=1, epoch=2)[0])
    assert not np.array_equal(first, transforms.draw(50, PAPER, seed=2, epoch=1)[0])


def test_evaluation_sees_the_whole_image_resized() -> None:
    images = pictures(2)
    expected = functional.resize(Image.fromarray(images[1].permute(1, 2, 0).numpy()), [250, 250])
    expected_input = functional.normalize(
        functional.to_tensor(expected), list(transforms.IMAGENET_MEAN), list(transforms.IMAGENET_STD)
    )
    seen = transforms.normalise(transforms.resize(images, 250))
    torch.testing.assert_close(seen[1], expected_input, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("contiguous", [True, False])
def test_normalise_in_any_memory_order(contiguous: bool) -> None:
    images = pictures(3, side=40)
    if not contiguous:
        images = images.to(memory_format=torch.channels_last)
    ours = transforms.normalise(images)
    mean = torch.tensor(transforms.IMAGENET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(transforms.IMAGENET_STD).view(1, 3, 1, 1)
    torch.testing.assert_close(ours, (images.float() / 255 - mean) / std, atol=1e-5, rtol=1e-5)
