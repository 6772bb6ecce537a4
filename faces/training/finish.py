"""What follows training: batch norms' statistics estimated again, and scores calibrated on the validation images.

Crops make training images look other than the whole images that are scored later, so the statistics that batch norms
gathered on the way do not fit these (Touvron et al. 2019; Wu and Johnson 2021). Both steps change the model's own
numbers: whoever uses it afterwards need not know of them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.optim.swa_utils import update_bn

from faces.training import distributed, loop
from faces.training.features import FrozenFeatures, Images
from faces.training.model import Tail
from faces.training.recipe import Recipe, evaluation_views


@dataclass(frozen=True)
class Finished:
    """How the validation images fare in the end, not mirrored, and by what the scores were calibrated.

    The logits' difference, Down syndrome minus healthy, was multiplied by `slope` (one over the temperature) and then
    raised by `shift`; 1 and 0: not calibrated.
    """

    val_loss: float
    val_accuracy: float
    slope: float
    shift: float


def finish(
    model: Tail, frozen: FrozenFeatures, train: Images, validation: Images, recipe: Recipe, seed: int
) -> Finished:
    """Do what the recipe asks for after training, in place, and measure the model on the validation images."""
    if recipe.reestimate_norms:
        reestimate_norms(model, frozen, train, recipe.batch_size, seed)
    rows = distributed.share(torch.arange(len(validation.pixels)))
    slope, shift = 1.0, 0.0
    if recipe.calibrate:
        views = [
            distributed.all_gather(loop.predict(model, frozen.clean(validation, rows, mirrored), frozen.device))
            for mirrored in evaluation_views(recipe.transforms)
        ]
        slope, shift = distributed.broadcast(platt(torch.cat(views), validation.y_true.repeat(len(views))))
        calibrate(model, slope, shift)
    loss, accuracy = loop.evaluate(model, frozen.clean(validation, rows), validation.y_true, frozen.device)
    return Finished(loss, accuracy, slope, shift)


def reestimate_norms(model: Tail, frozen: FrozenFeatures, train: Images, batch_size: int, seed: int) -> None:
    """Give each trained batch norm the mean statistics of all training images as evaluation sees them."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 2**32]))
    batches = [distributed.share(batch) for batch in loop.shuffled(len(train.pixels), batch_size, rng)]
    features = frozen.clean(train, torch.cat(batches))
    update_bn(torch.split(features, [len(batch) for batch in batches]), model, device=frozen.device)


def platt(logits: Tensor, y_true: Tensor) -> tuple[float, float]:
    """Return the slope and the shift of the logits' difference that fit the labels best.

    Source: Platt 1999, with his targets, which keep the slope finite where the classes are told apart without error.
    """
    margin = (logits[:, 1] - logits[:, 0]).double().numpy()
    positive = y_true.numpy() == 1
    n, n_positive = len(positive), int(positive.sum())
    target = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n - n_positive + 2))
    fitted = LogisticRegression(C=np.inf).fit(
        np.concatenate([margin, margin])[:, None],
        np.repeat([1, 0], n),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


@torch.no_grad()
def calibrate(model: Tail, slope: float, shift: float) -> None:
    """Lay slope and shift of the logits' difference into the head."""
    model.fc.weight.mul_(slope)
    model.fc.bias.mul_(slope).add_(torch.tensor([-shift / 2, shift / 2], device=model.fc.bias.device))
