"""Batch norms estimated again and calibrated scores: what follows training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet34
from trained import recipe

from faces.training import determinism, finish, loop
from faces.training.features import FrozenFeatures, Images
from faces.training.model import Tail, build

CPU = torch.device("cpu")
SMALL = {"resize": 64, "crop": 64}
RECIPE = recipe(batch_size=8, freeze="layer3", precision="fp32", transforms=SMALL)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    determinism.enable()


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Tail, FrozenFeatures]:
    torch.manual_seed(0)
    torch.save(resnet34(weights=None).state_dict(), tmp_path / "resnet34.pth")
    network = build(tmp_path / "resnet34.pth", seed=1)
    frozen = FrozenFeatures(network, RECIPE, 1, CPU)
    return Tail(network, RECIPE.freeze, RECIPE.precision), frozen


def images(n: int, name: str) -> Images:
    y_true = torch.arange(n) % 2
    noise = torch.randint(0, 128, (n, 3, 64, 64), generator=torch.Generator().manual_seed(n))
    return Images((noise + 100 * y_true.view(n, 1, 1, 1)).to(torch.uint8), y_true, key=name)


def margins(tail: Tail, features: torch.Tensor) -> torch.Tensor:
    logits = loop.predict(tail, features, CPU).double()
    return logits[:, 1] - logits[:, 0]


def test_norms_get_the_statistics_of_the_clean_training_images(parts: tuple[Tail, FrozenFeatures]) -> None:
    tail, frozen = parts
    train = images(24, "train")
    momentum = [module.momentum for module in tail.modules() if isinstance(module, nn.BatchNorm2d)]
    finish.reestimate_norms(tail, frozen, train, batch_size=24, seed=1)
    first = next(module for module in tail.modules() if isinstance(module, nn.BatchNorm2d))
    convolution = next(module for module in tail.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        seen = convolution(frozen.clean(train, torch.arange(24)).float()).transpose(0, 1).flatten(1)
    assert first.running_mean is not None
    assert first.running_var is not None
    torch.testing.assert_close(first.running_mean, seen.mean(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(first.running_var, seen.var(1), rtol=1e-3, atol=1e-4)
    assert [module.momentum for module in tail.modules() if isinstance(module, nn.BatchNorm2d)] == momentum


def test_calibration_finds_slope_and_shift_of_simulated_scores() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 2, 20_000)  # log odds
    y_true = torch.from_numpy((rng.random(20_000) < 1 / (1 + np.exp(-truth))).astype(np.int64))
    margin = torch.from_numpy((truth - 0.7) / 0.5)
    slope, shift = finish.platt(torch.stack([-margin / 2, margin / 2], dim=1), y_true)
    assert slope == pytest.approx(0.5, abs=0.02)
    assert shift == pytest.approx(0.7, abs=0.05)


def test_calibration_stays_finite_where_the_classes_are_told_apart_without_error() -> None:
    logits = torch.tensor([[3.0, -3.0]] * 10 + [[-3.0, 3.0]] * 10)
    slope, shift = finish.platt(logits, torch.tensor([0] * 10 + [1] * 10))
    assert 0 < slope < 2
    assert abs(shift) < 1e-3


def test_the_head_holds_the_calibration(parts: tuple[Tail, FrozenFeatures]) -> None:
    tail, frozen = parts
    features = frozen.clean(images(10, "val"), torch.arange(10))
    before = margins(tail, features)
    finish.calibrate(tail, slope=0.5, shift=1.5)
    torch.testing.assert_close(margins(tail, features), 0.5 * before + 1.5, rtol=1e-4, atol=1e-4)


def test_without_either_step_the_model_stays_and_is_measured_as_it_is(parts: tuple[Tail, FrozenFeatures]) -> None:
    tail, frozen = parts
    train, validation = images(16, "train"), images(10, "val")
    before = {key: value.clone() for key, value in tail.state_dict().items()}
    found = finish.finish(tail, frozen, train, validation, RECIPE, seed=1)
    assert all(torch.equal(before[key], value) for key, value in tail.state_dict().items())
    loss, accuracy = loop.evaluate(tail, frozen.clean(validation, torch.arange(10)), validation.y_true, CPU)
    assert (found.val_loss, found.val_accuracy, found.slope, found.shift) == (loss, accuracy, 1.0, 0.0)


def test_both_steps_lower_the_validation_loss_and_repeat(parts: tuple[Tail, FrozenFeatures]) -> None:
    tail, frozen = parts
    train, validation = images(16, "train"), images(10, "val")
    start = {key: value.clone() for key, value in tail.state_dict().items()}
    chosen = RECIPE.model_copy(update={"reestimate_norms": True, "calibrate": True})
    chosen = chosen.model_copy(update={"transforms": RECIPE.transforms.model_copy(update={"evaluation_flip": True})})
    plain = finish.finish(tail, frozen, train, validation, RECIPE, seed=1)
    once = finish.finish(tail, frozen, train, validation, chosen, seed=1)
    assert once.val_loss < plain.val_loss
    assert once.slope != 1
    ended = {key: value.clone() for key, value in tail.state_dict().items()}
    tail.load_state_dict(start)
    assert finish.finish(tail, frozen, train, validation, chosen, seed=1) == once
    assert all(torch.equal(ended[key], value) for key, value in tail.state_dict().items())
