"""Training with early stopping: one epoch, evaluation, and the whole run."""

import contextlib
import gc
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from faces.checkpoint import Checkpoint
from faces.cli import InputError
from faces.features import FrozenFeatures, Images, Progress
from faces.model import Tail
from faces.params import Recipe

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Epoch:
    """One line of history.csv; the losses are mean cross-entropies, the accuracies fractions."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True)
class Fit:
    """The history of a run; its tail holds the weights of the best epoch."""

    history: list[Epoch]
    best_epoch: int
    seconds: float  # spent on the epochs, before and after an interruption


def train_one_epoch(
    tail: Tail,
    features: Tensor,
    y_true: Tensor,
    order: Tensor,
    batch_size: int,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    device: torch.device,
    progress: Progress,
) -> tuple[float, float]:
    """Train on every image once, in `order` (rows [N]); return mean loss and accuracy as they were on the way.

    The scheduler is told after each batch.

    Errors: InputError, with the largest power of two that fits, if the device's memory does not hold a batch.
    """
    tail.train()
    loss_sum = torch.zeros((), dtype=torch.float64)
    right = 0
    for rows in torch.split(order, batch_size):
        try:
            x = features[rows].to(device)  # [B, C, h, w]
            y = y_true[rows].to(device)
            logits = tail(x)
            loss = criterion(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        except torch.OutOfMemoryError:
            fits = _largest_batch(tail, features, batch_size, device)
            raise InputError(
                f"the memory of {device} does not hold a batch of {batch_size}; batch_size {fits} fits"
                if fits
                else f"the memory of {device} does not hold even one image in training; free some or use the CPU"
            ) from None
        loss_sum += loss.detach().double().cpu() * len(rows)
        right += int((logits.argmax(dim=1) == y).sum())
        progress(len(rows))
    return loss_sum.item() / len(order), right / len(order)


def _largest_batch(tail: Tail, features: Tensor, below: int, device: torch.device) -> int:
    """Return the largest power of two under `below` that can be trained on, or 0; the tail is of no use then."""
    size = 1 << (below - 1).bit_length() >> 1
    while size:
        tail.zero_grad()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        with contextlib.suppress(torch.OutOfMemoryError):
            rows = torch.arange(size) % len(features)
            tail(features[rows].to(device)).sum().backward()
            return size
        size //= 2
    return 0


@torch.inference_mode()
def predict(tail: Tail, features: Tensor, device: torch.device) -> Tensor:
    """Return the logits float32 [N, 2] of features [N, C, h, w]."""
    tail.eval()
    return torch.cat([tail(x.to(device)).cpu() for x in torch.split(features, EVALUATION_BATCH)])


def evaluate(tail: Tail, features: Tensor, y_true: Tensor, device: torch.device) -> tuple[float, float]:
    """Return mean cross-entropy, labels not smoothed, and accuracy."""
    logits = predict(tail, features, device)
    loss = nn.functional.cross_entropy(logits.double(), y_true)
    return loss.item(), (logits.argmax(dim=1) == y_true).double().mean().item()


def fit(
    tail: Tail,
    frozen: FrozenFeatures,
    train: Images,
    validation: Images,
    recipe: Recipe,
    seed: int,
    checkpoint: Checkpoint,
    report: Callable[[list[Epoch]], None],
    progress: Progress,
) -> Fit:
    """Train with AdamW (paper, equations 3-5) until the validation loss has not fallen for `patience` epochs.

    `report` is told the history after every epoch. The state is saved then too, and taken up again if it is there:
    an interrupted run ends with the same bytes as one that was not.
    """
    device = frozen.device
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    optimizer = torch.optim.AdamW(
        tail.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    n = len(train.pixels)
    scheduler = _scheduler(optimizer, recipe, batches=math.ceil(n / recipe.batch_size))
    history: list[Epoch] = []
    best: dict[str, Tensor] = {}
    seconds = 0.0
    saved = checkpoint.load()
    if saved is not None:
        tail.load_state_dict(saved["tail"])
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        history = [Epoch(**line) for line in saved["history"]]
        best = saved["best"]
        seconds = saved["seconds"]
        report(history)

    clean = frozen.clean(validation)
    while not _finished(history, recipe):
        started = time.perf_counter()
        epoch = len(history) + 1
        features = frozen.train(train, epoch, progress)
        order = torch.from_numpy(np.random.Generator(np.random.Philox(key=[seed, 2**32 + epoch])).permutation(n))
        train_loss, train_accuracy = train_one_epoch(
            tail,
            features,
            train.y_true,
            order,
            recipe.batch_size,
            criterion,
            optimizer,
            scheduler,
            device,
            progress,
        )
        val_loss, val_accuracy = evaluate(tail, clean, validation.y_true, device)
        if not math.isfinite(train_loss + val_loss):
            raise InputError(
                f"the loss is no longer finite in epoch {epoch}; learning_rate {recipe.learning_rate} is too high"
            )
        history.append(Epoch(epoch, train_loss, train_accuracy, val_loss, val_accuracy))
        if best_epoch(history) == epoch:  # copied: the live weights go on changing
            best = {key: value.detach().cpu().clone() for key, value in tail.state_dict().items()}
        seconds += time.perf_counter() - started
        checkpoint.save(
            {
                "tail": tail.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "history": [asdict(line) for line in history],
                "best": best,
                "seconds": seconds,
            }
        )
        report(history)

    tail.load_state_dict(best)
    return Fit(history, best_epoch(history), seconds)


def _scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, batches: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Return what sets the learning rate after each batch; `batches` make an epoch.

    One-cycle (Smith and Topin, 2017; torch's defaults): up to the learning rate over the first 30% of `max_epochs`,
    and down to almost none.
    """
    if recipe.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, epochs=recipe.max_epochs, steps_per_epoch=batches
    )


def best_epoch(history: list[Epoch]) -> int:
    """Return the first epoch with the lowest validation loss."""
    return min(history, key=lambda line: (line.val_loss, line.epoch)).epoch


def _finished(history: list[Epoch], recipe: Recipe) -> bool:
    if not history:
        return False
    return len(history) >= recipe.max_epochs or len(history) - best_epoch(history) >= recipe.patience
