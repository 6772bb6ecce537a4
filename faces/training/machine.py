"""What a run ran on, for the record beside its time."""

import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "dvc")


def hardware(device: str) -> str:
    """Return the device in words: the GPU's name, or the processor's and the number of usable cores."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter to a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
