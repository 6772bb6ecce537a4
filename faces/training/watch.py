"""The history as TensorBoard's events while a run trains; off unless FACES_TENSORBOARD names a folder.

An environment variable, for it changes no result and makes no stage run again.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from faces.cli import InputError

VARIABLE = "FACES_TENSORBOARD"


def write(run: str, epoch: Mapping[str, float]) -> None:
    """Add an epoch (its number under "epoch", and losses and accuracies) to the run's events, if they are asked for.

    Errors: InputError if the package tensorboard is not installed.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(f"{VARIABLE} needs the package tensorboard: .venv/bin/uv pip install tensorboard") from None
    with SummaryWriter(Path(folder) / run) as writer:
        for name, value in epoch.items():
            if name != "epoch":
                writer.add_scalar(name, value, int(epoch["epoch"]))
