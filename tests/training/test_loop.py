"""Training: the same bytes after an interruption, early stopping, and failures that say what to do."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torchvision.models import resnet34
from trained import recipe

from faces.cli import InputError
from faces.training import determinism, features, loop
from faces.training.checkpoint import Checkpoint
from faces.training.features import FrozenFeatures, Images
from faces.training.model import Tail, build
from faces.training.recipe import Recipe
from faces.training.state import Epoch, TrainingState

SMALL = {"resize": 32, "crop": 32, "scale": (0.5, 1.0)}
RECIPE = recipe(batch_size=8, learning_rate=0.001, freeze="layer4", max_epochs=3, patience=3, transforms=SMALL)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet34.pth"
    torch.save(resnet34(weights=None).state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    determinism.enable()


def images(n: int, name: str) -> Images:
    generator = torch.Generator().manual_seed(n)
    y_true = torch.arange(n) % 2
    pixels = torch.randint(0, 128, (n, 3, 32, 32), generator=generator) + 100 * y_true.view(n, 1, 1, 1)
    return Images(pixels.to(torch.uint8), y_true, key=name)


def train(
    weights: Path,
    recipe: Recipe = RECIPE,
    stop_after: int | None = None,
    wrap: Any = None,
    n: int = 20,
) -> tuple[TrainingState, dict[str, Tensor], FrozenFeatures]:
    """Run all epochs on n images of drawn noise, or interrupt them after an epoch's report."""
    network = build(weights, seed=1)
    frozen = FrozenFeatures(network, recipe, 1, CPU)
    tail = Tail(network, recipe.freeze, recipe.precision)
    if wrap is not None:
        wrap(tail)
    state = TrainingState(tail, recipe, batches=math.ceil(n / recipe.batch_size))

    def report(history: list[Epoch]) -> None:
        if stop_after is not None and len(history) == stop_after:
            raise KeyboardInterrupt

    loop.fit(state, frozen, images(n, "train"), images(10, "val"), recipe, 1, Checkpoint("k"), report, lambda n: None)
    return state, network.state_dict(), frozen


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(("freeze", "ema_decay", "mixup"), [("layer4", 0.0, 0.0), ("layer3", 0.8, 0.2)])
def test_twice_the_same_and_after_an_interruption_too(
    weights: Path, freeze: str, ema_decay: float, mixup: float
) -> None:
    changes = {"freeze": freeze, "max_epochs": 2, "schedule": "one-cycle", "ema_decay": ema_decay, "mixup": mixup}
    recipe = RECIPE.model_copy(update=changes)
    fit, state, _ = train(weights, recipe)
    Checkpoint("k").remove()
    again, state_again, _ = train(weights, recipe)
    assert again.history == fit.history
    assert same(state_again, state)

    Checkpoint("k").remove()
    for epoch in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            train(weights, recipe, stop_after=epoch)
    resumed, resumed_state, _ = train(weights, recipe)
    assert resumed.history == fit.history
    assert same(resumed_state, state)


def test_the_average_of_the_weights_is_what_is_kept(weights: Path) -> None:
    """Polyak and Juditsky (1992), exponentially weighted: after each step, decay * average + (1 - decay) * weights."""
    seen: list[Tensor] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        seen.append(optimizer.param_groups[0]["params"][0].detach().clone())

    handle = register_optimizer_step_post_hook(note)
    try:
        _, state, _ = train(weights, RECIPE.model_copy(update={"max_epochs": 1, "ema_decay": 0.7}))
    finally:
        handle.remove()
    average = seen[0]
    for value in seen[1:]:
        average = 0.7 * average + 0.3 * value
    assert len(seen) == 3  # 20 images in batches of 8
    torch.testing.assert_close(state["fc.weight"], average)
    assert not torch.allclose(state["fc.weight"], seen[-1])


def test_the_best_epochs_weights_are_restored(weights: Path) -> None:
    fit, state, frozen = train(weights)
    tail = Tail(build(weights, seed=1), "layer4", "bf16")
    tail.load_state_dict({key: value for key, value in state.items() if key.startswith("fc.")})
    val_loss, val_accuracy = loop.evaluate(
        tail, frozen.clean(images(10, "val"), torch.arange(10)), images(10, "val").y_true, CPU
    )
    best = fit.history[fit.best_epoch - 1]
    assert (val_loss, val_accuracy) == (best.val_loss, best.val_accuracy)
    assert best.val_loss == min(epoch.val_loss for epoch in fit.history)


def test_it_learns(weights: Path) -> None:
    recipe = RECIPE.model_copy(update={"max_epochs": 8, "patience": 8})
    fit, _, _ = train(weights, recipe)
    assert fit.history[-1].train_loss < fit.history[0].train_loss


def test_early_stopping_counts_epochs_since_the_best(weights: Path) -> None:
    recipe = RECIPE.model_copy(update={"patience": 2, "max_epochs": 5})
    tail = Tail(build(weights, seed=1), recipe.freeze, recipe.precision)

    def after(*losses: float) -> TrainingState:
        state = TrainingState(tail, recipe, batches=3)
        for i, loss in enumerate(losses, start=1):
            state.finish_epoch(Epoch(i, 0.0, 0.0, loss, 0.0), seconds=1.0)
        return state

    assert not after().finished(recipe)
    assert not after(3, 2, 2.5).finished(recipe)
    assert after(3, 2, 2.5, 2).finished(recipe)
    assert after(5, 4, 3, 2, 1).finished(recipe)
    assert after(3, 2, 2.5, 2).best_epoch == 2


def test_runs_that_differ_in_batch_size_share_the_bodys_work(weights: Path) -> None:
    _, _, first = train(weights)
    Checkpoint("k").remove()
    _, _, second = train(weights, RECIPE.model_copy(update={"batch_size": 5, "learning_rate": 0.0001}))
    assert first.computed == 3 * 20 + 10
    assert (second.computed, second.reused) == (0, 3 * 20 + 10)


def test_shared_features_are_those_computed(weights: Path) -> None:
    frozen = FrozenFeatures(build(weights, seed=1), RECIPE, 1, CPU)
    computed = frozen.train(images(20, "train"), torch.arange(20), 1, lambda n: None).clone()
    assert torch.equal(frozen.train(images(20, "train"), torch.arange(20), 1, lambda n: None), computed)
    assert not torch.equal(frozen.train(images(20, "train"), torch.arange(20), 2, lambda n: None), computed)


def test_crops_grow_from_epoch_to_epoch_and_evaluation_has_its_own(weights: Path) -> None:
    # features are a quarter of the picture's side
    growing = recipe(
        freeze="stem", max_epochs=3, transforms={"resize": 32, "first_crop": 32, "crop": 64, "evaluation_crop": 96}
    )
    frozen = FrozenFeatures(build(weights, seed=1), growing, 1, CPU)
    rows = torch.tensor([3, 0, 7])
    sides = [frozen.train(images(20, "train"), rows, epoch, lambda n: None).shape[-1] for epoch in (1, 2, 3)]
    assert sides == [8, 12, 16]
    assert frozen.clean(images(20, "train"), rows).shape == (3, 64, 24, 24)


def test_rows_are_given_in_the_order_asked_for(weights: Path) -> None:
    frozen = FrozenFeatures(build(weights, seed=1), RECIPE, 1, CPU)
    subset, rows = images(20, "train"), torch.tensor([5, 2, 11])
    everything = frozen.train(subset, torch.arange(20), 1, lambda n: None)
    torch.testing.assert_close(frozen.train(subset, rows, 1, lambda n: None), everything[rows], rtol=0.02, atol=0.02)
    validation = frozen.clean(subset, torch.arange(20))
    torch.testing.assert_close(frozen.clean(subset, rows), validation[rows], rtol=0.02, atol=0.02)


def test_logits_are_each_images_own_however_many_go_through_at_once(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = Tail(build(weights, seed=1), RECIPE.freeze, "fp32")
    outputs = torch.randn(20, 512, 2, 2, generator=torch.Generator().manual_seed(0))
    logits = loop.predict(tail, outputs, CPU)
    monkeypatch.setattr(loop, "EVALUATION_BATCH", {"cpu": 3})
    assert logits.shape == (20, 2)
    assert len({tuple(row) for row in logits.tolist()}) == 20
    torch.testing.assert_close(loop.predict(tail, outputs, CPU), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_last_piece_may_hold_a_single_image_or_none(n: int, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CHUNK", {"cpu": 4})
    frozen = FrozenFeatures(build(weights, seed=1), RECIPE, 1, CPU)
    subset = images(20, "train")
    everything = frozen.train(subset, torch.arange(20), 1, lambda n: None)
    some = frozen.train(subset, torch.arange(n), 1, lambda n: None)
    torch.testing.assert_close(some, everything[:n], rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("fault", "fits", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), 4, "batch_size 4 fits"),
        (torch.OutOfMemoryError("CUDA out of memory"), 0, "not hold even one image"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), 4, "batch_size 4 fits"),
        (MemoryError(), 4, "batch_size 4 fits"),
    ],
)
def test_out_of_memory_names_the_batch_size_that_fits(weights: Path, fault: Exception, fits: int, says: str) -> None:
    def wrap(tail: Tail) -> None:
        forward = tail.forward

        def limited(features: Tensor) -> Tensor:
            if len(features) > fits:
                raise fault
            return forward(features)

        tail.forward = limited  # type: ignore[method-assign]

    with pytest.raises(InputError, match=says):
        train(weights, wrap=wrap)


def test_a_loss_that_is_not_finite_stops_the_run(weights: Path) -> None:
    with pytest.raises(InputError, match="no longer finite in epoch 1"):
        train(weights, wrap=lambda tail: tail.fc.weight.data.fill_(float("nan")))


@pytest.mark.parametrize(("freeze", "crop", "batch_size", "n"), [("layer3", 32, 8, 17), ("layer3", 32, 1, 4)])
def test_a_last_batch_of_one_image_that_batch_norms_cannot_take_is_told_first(
    weights: Path, freeze: str, crop: int, batch_size: int, n: int
) -> None:
    single = recipe(freeze=freeze, batch_size=batch_size, max_epochs=1, transforms={"resize": 32, "crop": crop})
    with pytest.raises(InputError, match=f"batch_size {batch_size} leaves one of the {n} training images"):
        train(weights, single, n=n, wrap=lambda tail: tail.register_forward_pre_hook(lambda *_: pytest.fail("worked")))


@pytest.mark.parametrize(("freeze", "crop"), [("layer4", 32), ("layer3", 40)])
def test_a_last_batch_of_one_image_that_they_can_take_is_trained_on(weights: Path, freeze: str, crop: int) -> None:
    single = recipe(freeze=freeze, batch_size=8, max_epochs=1, transforms={"resize": 32, "crop": crop})
    assert len(train(weights, single, n=9)[0].history) == 1


def test_a_damaged_checkpoint_costs_the_start_not_the_run(weights: Path) -> None:
    Checkpoint("k").path.write_bytes(b"not a checkpoint")
    fit, _, _ = train(weights)
    assert len(fit.history) == 3


def test_mixtures_have_the_shares_of_their_images() -> None:
    x, y_true = torch.tensor([[1.0], [10.0], [100.0]]), torch.tensor([0, 1, 1])
    features, shares = loop.mixed(x, y_true, weight=0.75)
    assert features.flatten().tolist() == [0.75 + 25, 7.5 + 0.25, 75 + 2.5]  # each with the one before, in a circle
    assert shares.tolist() == [[0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]


def test_mixup_mixes_most_of_an_image_with_less_of_another(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once, seen = loop.mixed, []

    def recorded(x: Tensor, y_true: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        seen.append(weight)
        return once(x, y_true, weight)

    monkeypatch.setattr(loop, "mixed", recorded)
    train(weights)
    assert not seen
    Checkpoint("k").remove()
    train(weights, RECIPE.model_copy(update={"mixup": 0.5}))
    assert len(seen) == 9  # 3 epochs of 3 batches
    assert len(set(seen)) == 9
    assert all(0.5 <= weight < 1 for weight in seen)


def test_each_layer_has_its_own_learning_rate(weights: Path) -> None:
    recipe = RECIPE.model_copy(update={"freeze": "layer2", "layer_decay": 0.5, "learning_rate": 0.01})
    network = build(weights, seed=1)
    tail = Tail(network, recipe.freeze, recipe.precision)
    groups = TrainingState(tail, recipe, batches=3).optimizer.param_groups
    assert [group["lr"] for group in groups] == [0.01, 0.005, 0.0025]
    layers = [network.fc, network.layer4, network.layer3]
    assert [group["params"] for group in groups] == [list(layer.parameters()) for layer in layers]
    cycle = TrainingState(tail, recipe.model_copy(update={"schedule": "one-cycle"}), batches=3)
    assert [group["max_lr"] for group in cycle.optimizer.param_groups] == [0.01, 0.005, 0.0025]
