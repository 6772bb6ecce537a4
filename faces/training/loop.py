"""Training with early stopping: one epoch, evaluation, and the whole run."""

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from faces.cli import InputError
from faces.params import Recipe
from faces.training import distributed
from faces.training.checkpoint import Checkpoint
from faces.training.features import FrozenFeatures, Images, Progress
from faces.training.model import CLASSES, Tail

EVALUATION_BATCH = {"cpu": 32, "cuda": 256}  # images; few on a CPU, for the reason of features.CHUNK


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
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor, int]],
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    after_step: Callable[[], None],
    device: torch.device,
    progress: Progress,
) -> tuple[float, float]:
    """Train on each batch once; return the epoch's mean loss and accuracy as they were on the way.

    A batch is this process's share of it, features [b, C, h, w] and y_true [b], and the size of the whole; `criterion`
    returns a sum.

    Errors: InputError, with the largest power of two that fits, if the device's memory does not hold a batch.
    """
    model.train()
    # loss, right answers and images; summed on the device, which need not be waited for
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    for features, labels, whole in batches:
        try:
            x, y = features.to(device), labels.to(device)
            logits = model(x)
            loss = criterion(logits, y)
            optimizer.zero_grad()
            (loss * (distributed.world_size() / whole)).backward()  # the mean over processes is taken of gradients
            optimizer.step()
            after_step()
        except torch.OutOfMemoryError:
            fits = _largest_batch(model, features, device) * distributed.world_size()
            raise InputError(
                f"the memory of {device} does not hold a batch of {whole}; batch_size {fits} fits"
                if fits
                else f"the memory of {device} does not hold even one image in training; free some or use the CPU"
            ) from None
        right = (logits.detach().argmax(dim=1) == y).sum()
        sums += torch.stack([loss.detach().double(), right.double(), torch.full_like(sums[0], len(y))])
        progress(len(y))
    loss_sum, right_sum, n = distributed.total(sums).tolist()
    return loss_sum / n, right_sum / n


def _largest_batch(model: nn.Module, features: Tensor, device: torch.device) -> int:
    """Return the largest power of two under len(features) that can be trained on, or 0; the model is of no use then."""
    size = 1 << (len(features) - 1).bit_length() >> 1
    while size:
        model.zero_grad()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        with contextlib.suppress(torch.OutOfMemoryError):
            model(features[:size].to(device)).sum().backward()
            return size
        size //= 2
    return 0


@torch.inference_mode()
def predict(tail: nn.Module, features: Tensor, device: torch.device) -> Tensor:
    """Return the logits float32 [N, 2] of features [N, C, h, w]."""
    tail.eval()
    logits = torch.empty(len(features), CLASSES)  # filled, not collected: many small pieces would scatter in memory
    size = EVALUATION_BATCH[device.type]
    for into, x in zip(torch.split(logits, size), torch.split(features, size), strict=True):
        into.copy_(tail(x.to(device)))
    return logits


def evaluate(tail: nn.Module, features: Tensor, y_true: Tensor, device: torch.device) -> tuple[float, float]:
    """Return mean cross-entropy, labels not smoothed, and accuracy over the images [N] that all processes share.

    features [n, C, h, w] are this process's share of them.
    """
    logits = distributed.gather(predict(tail, features, device))
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

    Errors: InputError if the loss is no longer finite, or the device's memory too small.
    """
    device = frozen.device
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing, reduction="sum")
    optimizer = torch.optim.AdamW(
        tail.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    n = len(train.pixels)
    scheduler = _scheduler(optimizer, recipe, batches=math.ceil(n / recipe.batch_size))
    averaged = _average(tail, recipe.ema_decay) if recipe.ema_decay else None
    kept = tail if averaged is None else averaged.module  # what is validated, and is the run's result
    history: list[Epoch] = []
    best: dict[str, Tensor] = {}
    seconds = 0.0
    saved = distributed.from_first(checkpoint.load())
    if saved is not None:
        tail.load_state_dict(saved["tail"])
        if averaged is not None:
            averaged.load_state_dict(saved["averaged"])
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        history = [Epoch(**line) for line in saved["history"]]
        best = saved["best"]
        seconds = saved["seconds"]
        report(history)

    def after_step() -> None:
        scheduler.step()
        if averaged is not None:
            averaged.update_parameters(tail)

    model = distributed.together(tail)
    clean = frozen.clean(validation, distributed.share(torch.arange(len(validation.pixels))))
    while not _finished(history, recipe):
        started = time.perf_counter()
        epoch = len(history) + 1
        rng = np.random.Generator(np.random.Philox(key=[seed, 2**32 + epoch]))
        batches = torch.split(torch.from_numpy(rng.permutation(n)), recipe.batch_size)
        shares = [distributed.share(batch) for batch in batches]
        rows, lengths = torch.cat(shares), [len(rows) for rows in shares]
        features = frozen.train(train, rows, epoch, progress)
        train_loss, train_accuracy = train_one_epoch(
            model,
            zip(
                torch.split(features, lengths), torch.split(train.y_true[rows], lengths), map(len, batches), strict=True
            ),
            criterion,
            optimizer,
            after_step,
            device,
            progress,
        )
        val_loss, val_accuracy = evaluate(kept, clean, validation.y_true, device)
        if not math.isfinite(train_loss + val_loss):
            raise InputError(
                f"the loss is no longer finite in epoch {epoch}; learning_rate {recipe.learning_rate} is too high"
            )
        history.append(Epoch(epoch, train_loss, train_accuracy, val_loss, val_accuracy))
        if best_epoch(history) == epoch:  # copied: the live weights go on changing
            best = {key: value.detach().cpu().clone() for key, value in kept.state_dict().items()}
        seconds += time.perf_counter() - started
        if distributed.rank() == 0:
            checkpoint.save(
                {
                    "tail": tail.state_dict(),
                    "averaged": averaged and averaged.state_dict(),
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


def _average(tail: Tail, decay: float) -> AveragedModel:
    """Return what keeps an exponential moving average of the weights, and of the batch norms' statistics."""
    rule = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(tail, multi_avg_fn=rule, use_buffers=True)


def best_epoch(history: list[Epoch]) -> int:
    """Return the first epoch with the lowest validation loss."""
    return min(history, key=lambda line: (line.val_loss, line.epoch)).epoch


def _finished(history: list[Epoch], recipe: Recipe) -> bool:
    if not history:
        return False
    return len(history) >= recipe.max_epochs or len(history) - best_epoch(history) >= recipe.patience
