"""The history as TensorBoard's events while a run trains; off unless FACES_TENSORBOARD names a folder.

An environment variable, for it changes no result and makes no stage run again.
"""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

from faces.cli import InputError

VARIABLE = "FACES_TENSORBOARD"


def check() -> None:
    """Raise an `InputError` if events are asked for and the package tensorboard is not installed."""
    if os.environ.get(VARIABLE) and importlib.util.find_spec("tensorboard") is None:
        raise InputError(f"{VARIABLE} needs the package tensorboard: .venv/bin/uv pip install tensorboard")


def write(run: str, epoch: Mapping[str, float]) -> None:
    """Add an epoch (its number under "epoch", and losses and accuracies) to the run's events, if they are asked for."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(Path(folder) / run) as writer:
        for name, value in epoch.items():
            if name != "epoch":
                writer.add_scalar(name, value, int(epoch["epoch"]))
