"""What changes while a model is trained, as one object that a checkpoint keeps and takes up again."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from faces.training.model import Tail
from faces.training.recipe import Recipe


@dataclass(frozen=True)
class Epoch:
    """One epoch of a run's history; the losses are mean cross-entropies, the accuracies fractions."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float


class TrainingState:
    """A model with its optimizer, schedule and average, the history so far, and the weights of the best epoch."""

    def __init__(self, model: Tail, recipe: Recipe, batches: int) -> None:
        """Start at epoch 0; `batches` make an epoch."""
        self.model = model
        # AdamW: paper, equations 3-5
        groups = [
            {"params": parameters, "lr": recipe.learning_rate * recipe.layer_decay**depth}
            for depth, parameters in enumerate(model.layers_from_the_head())
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=True)
        self.scheduler = _scheduler(self.optimizer, recipe, batches)
        self.average = _average(model, recipe.ema_decay) if recipe.ema_decay else None
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.seconds = 0.0  # spent on the epochs, before and after an interruption

    @property
    def evaluated(self) -> torch.nn.Module:
        """The model that is validated and is the run's result: the average, if the recipe asks for one."""
        return self.model if self.average is None else self.average.module

    @property
    def best_epoch(self) -> int:
        """The epoch with the lowest validation loss; of equals, the first."""
        return min(self.history, key=lambda line: line.val_loss).epoch

    def step(self) -> None:
        """Update weights, learning rate and average from the gradients of a batch."""
        self.optimizer.step()
        self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(self.model)

    def finish_epoch(self, epoch: Epoch, seconds: float) -> None:
        """Add an epoch to the history, and keep its weights if it is the best."""
        self.history.append(epoch)
        self.seconds += seconds
        if self.best_epoch == epoch.epoch:  # copied: the live weights go on changing
            self.best = {key: value.detach().cpu().clone() for key, value in self.evaluated.state_dict().items()}

    def finished(self, recipe: Recipe) -> bool:
        """Say whether `max_epochs` are done, or the validation loss has not fallen for `patience` epochs."""
        epochs = len(self.history)
        return epochs > 0 and (epochs >= recipe.max_epochs or epochs - self.best_epoch >= recipe.patience)

    def state_dict(self) -> dict[str, Any]:
        """Return all of it, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "average": self.average and self.average.state_dict(),
            "history": [asdict(line) for line in self.history],
            "best": self.best,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.history = [Epoch(**line) for line in state["history"]]
        self.best = state["best"]
        self.seconds = state["seconds"]


def _scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, batches: int) -> LRScheduler:
    """Return what sets the learning rate after each batch; `batches` make an epoch.

    One-cycle (Smith and Topin, 2017; torch's defaults): up to the learning rate over the share `warm_up` of
    `max_epochs`, and down to almost none.
    """
    if recipe.schedule == "constant":
        return ConstantLR(optimizer, factor=1)
    highest = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, highest, epochs=recipe.max_epochs, steps_per_epoch=batches, pct_start=recipe.warm_up)


def _average(model: Tail, decay: float) -> AveragedModel:
    """Return what keeps an exponential moving average of the weights, and of the batch norms' statistics."""
    rule = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=rule, use_buffers=True)
