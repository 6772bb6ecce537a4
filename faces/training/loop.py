"""Training with early stopping: one epoch, evaluation, and all epochs of a run."""

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from faces.cli import InputError, out_of_memory
from faces.training import distributed
from faces.training.checkpoint import Checkpoint
from faces.training.features import FrozenFeatures, Images, Progress
from faces.training.model import CLASSES
from faces.training.recipe import Recipe
from faces.training.state import Epoch, TrainingState
from faces.training.transforms import crop_size

EVALUATION_BATCH = {"cpu": 32, "cuda": 256}  # images; few on a CPU, for the reason of features.CHUNK
LAST_STRIDE = 32  # pixels of a picture that become one after the last layer


@dataclass(frozen=True)
class Batch:
    """This process's share of a batch: features [b, C, h, w] and y_true [b].

    n: images of the batch in all processes. mixing: the weight of an image in its mixture with the next one of the
    share; 1 mixes nothing.
    """

    features: Tensor
    y_true: Tensor
    n: int
    mixing: float


def train_one_epoch(
    state: TrainingState,
    model: nn.Module,
    batches: Iterable[Batch],
    criterion: nn.Module,
    device: torch.device,
    progress: Progress,
) -> tuple[float, float]:
    """Train on each batch once; return the epoch's mean loss and accuracy as they were on the way.

    model: `state.model`, or what wraps it for several processes; `criterion` returns a sum. Mixtures count as right
    when the class of the image that they have most of is found.

    Errors: InputError, with the largest power of two that fits, if the memory does not hold a batch.
    """
    model.train()
    # loss, right answers and images; summed on the device, which need not be waited for
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    for batch in batches:
        try:
            x, y = batch.features.to(device), batch.y_true.to(device)
            wanted = y
            if batch.mixing < 1:
                x, wanted = mixed(x, y, batch.mixing)
            logits = model(x)
            loss = criterion(logits, wanted)
            state.optimizer.zero_grad()
            # gradients are averaged over the processes
            (loss * (distributed.world_size() / batch.n)).backward()
            state.step()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            fits = _largest_batch(model, batch.features, device) * distributed.world_size()
            raise InputError(
                f"the memory of {device} does not hold a batch of {batch.n}; batch_size {fits} fits"
                if fits
                else f"the memory of {device} does not hold even one image in training; free some or use the CPU"
            ) from None
        right = (logits.detach().argmax(dim=1) == y).sum()
        sums += torch.stack([loss.detach().double(), right.double(), torch.full_like(sums[0], len(y))])
        progress(len(y))
    loss_sum, right_sum, n = distributed.all_reduce(sums).tolist()
    return loss_sum / n, right_sum / n


def mixed(x: Tensor, y_true: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Return each image's features [b, C, h, w] mixed with the next one's, and the classes' shares [b, 2].

    Source: Zhang et al. 2018 (mixup); after frozen layers it mixes what they make of the pictures (Verma et al. 2019).
    """
    shares = nn.functional.one_hot(y_true, CLASSES).float()
    return x * weight + x.roll(1, 0) * (1 - weight), shares * weight + shares.roll(1, 0) * (1 - weight)


def _largest_batch(model: nn.Module, features: Tensor, device: torch.device) -> int:
    """Return the largest power of two under len(features) that can be trained on, or 0; the model is of no use then."""
    size = 1 << (len(features) - 1).bit_length() >> 1
    while size:
        model.zero_grad()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        with contextlib.suppress(RuntimeError, MemoryError):
            model(features[:size].to(device)).sum().backward()
            return size
        size //= 2
    return 0


@torch.inference_mode()
def predict(model: nn.Module, features: Tensor, device: torch.device) -> Tensor:
    """Return the logits float32 [N, 2] of features [N, C, h, w]."""
    model.eval()
    logits = torch.empty(len(features), CLASSES)  # filled, not collected: many small pieces would scatter in memory
    size = EVALUATION_BATCH[device.type]
    for into, x in zip(torch.split(logits, size), torch.split(features, size), strict=True):
        into.copy_(model(x.to(device)))
    return logits


def evaluate(model: nn.Module, features: Tensor, y_true: Tensor, device: torch.device) -> tuple[float, float]:
    """Return mean cross-entropy, labels not smoothed, and accuracy over the images [N] that all processes share.

    features [n, C, h, w] are this process's share of them.
    """
    logits = distributed.all_gather(predict(model, features, device))
    loss = nn.functional.cross_entropy(logits.double(), y_true)
    return loss.item(), (logits.argmax(dim=1) == y_true).double().mean().item()


def fit(
    state: TrainingState,
    frozen: FrozenFeatures,
    train: Images,
    validation: Images,
    recipe: Recipe,
    seed: int,
    checkpoint: Checkpoint,
    report: Callable[[list[Epoch]], None],
    progress: Progress,
) -> None:
    """Train until `state` is finished; its model then has the weights of the best epoch.

    `report` is told the history after every epoch. The state is saved then too, and taken up again if it is there:
    an interrupted run ends with the same bytes as one that was not.

    Errors: InputError for a last batch that batch norms cannot take, a loss that is no longer finite, or too little
    memory.
    """
    _check_last_batch(len(train.pixels), recipe)
    device = frozen.device
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing, reduction="sum")
    saved = distributed.broadcast(checkpoint.load())
    if saved is not None:
        state.load_state_dict(saved)
        report(state.history)

    model = distributed.data_parallel(state.model)
    rows = distributed.share(torch.arange(len(validation.pixels)))
    validation_features = frozen.clean(validation, rows)
    while not state.finished(recipe):
        started = time.perf_counter()
        epoch = len(state.history) + 1
        batches = _batches(frozen, train, recipe, seed, epoch, progress)
        train_loss, train_accuracy = train_one_epoch(state, model, batches, criterion, device, progress)
        val_loss, val_accuracy = evaluate(state.evaluated, validation_features, validation.y_true, device)
        if not math.isfinite(train_loss + val_loss):
            raise InputError(
                f"the loss is no longer finite in epoch {epoch}; learning_rate {recipe.learning_rate} is too high"
            )
        line = Epoch(epoch, train_loss, train_accuracy, val_loss, val_accuracy)
        state.finish_epoch(line, seconds=time.perf_counter() - started)
        if distributed.rank() == 0:
            checkpoint.save(state.state_dict())
        report(state.history)
    state.model.load_state_dict(state.best)


def _check_last_batch(n: int, recipe: Recipe) -> None:
    """Raise an InputError if batch norms would see a single value: one image, of one pixel after the last layer."""
    last = (n - 1) % recipe.batch_size + 1
    smallest = crop_size(recipe.transforms, 1, recipe.max_epochs)
    if last == 1 and smallest <= LAST_STRIDE and recipe.freeze != "layer4":
        raise InputError(
            f"batch_size {recipe.batch_size} leaves one of the {n} training images for the last batch; "
            f"batch norms need two at a crop of {smallest} pixels: change batch_size, or crop more"
        )


def shuffled(n: int, batch_size: int, rng: np.random.Generator) -> list[Tensor]:
    """Return the row numbers 0 ... n - 1 in a drawn order, cut into batches."""
    return list(torch.split(torch.from_numpy(rng.permutation(n)), batch_size))


def _batches(
    frozen: FrozenFeatures, train: Images, recipe: Recipe, seed: int, epoch: int, progress: Progress
) -> Iterable[Batch]:
    """Return an epoch's batches as `train_one_epoch` takes them, in an order drawn for this epoch."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 2**32 + epoch]))
    batches = shuffled(len(train.pixels), recipe.batch_size, rng)
    shares = [distributed.share(batch) for batch in batches]
    rows, lengths = torch.cat(shares), [len(share) for share in shares]
    features = torch.split(frozen.train(train, rows, epoch, progress), lengths)
    weights = rng.beta(recipe.mixup, recipe.mixup, len(batches)) if recipe.mixup else np.ones(len(batches))
    mixing = np.maximum(weights, 1 - weights).tolist()  # most of the image itself
    return map(Batch, features, torch.split(train.y_true[rows], lengths), map(len, batches), mixing)
