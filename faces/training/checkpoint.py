"""A run's state after its last finished epoch, so that a killed run goes on instead of starting again."""

import contextlib
import io
import time
from pathlib import Path
from typing import Any

import torch

from faces.files import write_atomically
from faces.training import cache

STALE_AFTER = 14 * 24 * 3600  # seconds after which a checkpoint nobody came back for is removed


class Checkpoint:
    """One file, named by a key of everything that determines the run's result; no other run can read it."""

    def __init__(self, key: str) -> None:
        self.path: Path = cache.folder("checkpoints") / f"{key}.pt"
        for other in self.path.parent.glob("*.pt"):
            with contextlib.suppress(FileNotFoundError):  # another run was quicker
                if other != self.path and time.time() - other.stat().st_mtime > STALE_AFTER:
                    other.unlink()

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, or None if there is none or it cannot be read."""
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception:  # a damaged checkpoint costs the run's start, not the run
            self.remove()
            return None
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state, whole or not at all."""
        buffer = io.BytesIO()
        torch.save(state, buffer)  # not into the file itself: of a full disk, torch would say "unexpected pos"
        write_atomically(self.path, buffer.getbuffer())

    def remove(self) -> None:
        """Forget the state, once the result is written."""
        self.path.unlink(missing_ok=True)
