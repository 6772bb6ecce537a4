"""The same bytes from the same inputs on the same machine."""

import os


def enable() -> None:
    """Ask torch for deterministic algorithms; an operation that has none raises RuntimeError.

    Source: PyTorch's notes on reproducibility. Everything random draws from generators of its own, keyed by
    (seed, epoch), so there is no global random state to seed, save or restore.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.use_deterministic_algorithms(True)
    # torch would also write NaN into every new tensor first, to betray a read of unwritten memory: 4% of the time
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
