"""The augmentation against torchvision's per-image transforms."""

from dataclasses import replace

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
    draws = transforms.draw(6, PAPER, seed=3, epoch=1, epochs=9)
    draws.flips[:2] = [True, False]
    ours = transforms.augment(images, draws, size=250)
    for i, (left, upper, right, lower) in enumerate(draws.boxes.tolist()):
        picture = Image.fromarray(images[i].permute(1, 2, 0).numpy())
        expected = functional.resized_crop(picture, upper, left, lower - upper, right - left, [250, 250])
        if draws.flips[i]:
            expected = functional.hflip(expected)
        assert np.array_equal(ours[i].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_colours_are_torchvisions_pixel_by_pixel() -> None:
    images = pictures(4, side=40)
    params = PAPER.model_copy(update={"resize": 40, "colour": 0.3})
    draws = transforms.draw(4, params, seed=3, epoch=1, epochs=9)
    assert (abs(draws.colours - 1) <= 0.3).all()
    assert len(np.unique(draws.colours)) == 12
    plain = transforms.augment(images, replace(draws, colours=np.ones((4, 3))), size=32)
    ours = transforms.augment(images, draws, size=32)
    for i, (brightness, contrast, saturation) in enumerate(draws.colours.tolist()):
        picture = Image.fromarray(plain[i].permute(1, 2, 0).numpy())
        expected = functional.adjust_brightness(picture, brightness)
        expected = functional.adjust_saturation(functional.adjust_contrast(expected, contrast), saturation)
        assert np.array_equal(ours[i].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_erased_boxes_have_torchvisions_sizes_and_imagenets_mean_colour() -> None:
    params = PAPER.model_copy(update={"erase": 0.25})
    draws = transforms.draw(4000, params, seed=0, epoch=1, epochs=9)
    chosen = draws.erased.any(axis=1)
    assert 0.22 < chosen.mean() < 0.28
    left, upper, right, lower = draws.erased[chosen].T
    assert (draws.erased >= 0).all()
    assert (draws.erased <= 1 + 1e-9).all()
    area = (right - left) * (lower - upper)
    assert ks_2samp(area, np.random.default_rng(0).uniform(*transforms.ERASED_AREA, 4000)).pvalue > 1e-4
    images = torch.full((1, 3, 20, 20), 255, dtype=torch.uint8)
    whole = transforms.Draws(
        np.array([[0, 0, 20, 20]]), np.array([True]), np.ones((1, 3)), np.array([[0.1, 0.2, 0.5, 0.4]])
    )
    pixels = transforms.augment(images, whole, size=10)[0]
    assert pixels[:, 2:4, 1:5].flatten(1).unique(dim=1).flatten().tolist() == list(transforms.GREY)
    pixels[:, 2:4, 1:5] = 255
    assert (pixels == 255).all()


def test_colours_and_boxes_to_erase_leave_the_crops_as_they_are() -> None:
    plain = transforms.draw(50, PAPER, seed=1, epoch=1, epochs=9)
    params = PAPER.model_copy(update={"colour": 0.2, "erase": 0.2})
    more = transforms.draw(50, params, seed=1, epoch=1, epochs=9)
    assert np.array_equal(plain.boxes, more.boxes)
    assert np.array_equal(plain.flips, more.flips)
    assert not plain.erased.any()
    assert (plain.colours == 1).all()


def test_the_last_epochs_crop_more_of_the_picture() -> None:
    params = PAPER.model_copy(update={"final_scale": (0.9, 1.0), "final_epochs": 2})

    def smallest(epoch: int) -> float:
        boxes = transforms.draw(500, params, seed=1, epoch=epoch, epochs=5).boxes
        return float(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).min() / 224**2)

    assert [smallest(epoch) > 0.85 for epoch in range(1, 6)] == [False, False, False, True, True]


def test_no_images_have_no_draws() -> None:
    draws = transforms.draw(0, PAPER, seed=1, epoch=1, epochs=1)
    assert draws.boxes.shape == (0, 4)
    assert transforms.augment(pictures(0), draws, 32).shape == (0, 3, 32, 32)


def test_crops_grow_in_steps_of_16_pixels_and_end_as_asked() -> None:
    assert {transforms.crop_size(PAPER, epoch, 100) for epoch in (1, 50, 100)} == {250}  # the paper's do not
    growing = PAPER.model_copy(update={"first_crop": 112, "crop": 190})
    sizes = [transforms.crop_size(growing, epoch, 12) for epoch in range(1, 13)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (110, 190)  # whole steps below the last
    assert {(190 - size) % 16 for size in sizes} == {0}
    assert transforms.crop_size(growing, 1, 1) == 190


def test_boxes_follow_torchvisions_distribution() -> None:
    draws = transforms.draw(3000, PAPER, seed=0, epoch=0, epochs=1)
    boxes, flips = draws.boxes, draws.flips
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
    boxes = transforms.draw(20, params, seed, epoch=1, epochs=1).boxes
    assert (boxes >= 0).all()
    assert (boxes <= side).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_epochs_and_seeds_differ_and_repeat() -> None:
    first = transforms.draw(50, PAPER, seed=1, epoch=1, epochs=9).boxes
    assert np.array_equal(first, transforms.draw(50, PAPER, seed=1, epoch=1, epochs=9).boxes)
    assert not np.array_equal(first, transforms.draw(50, PAPER, seed=1, epoch=2, epochs=9).boxes)
    assert not np.array_equal(first, transforms.draw(50, PAPER, seed=2, epoch=1, epochs=9).boxes)


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
