"""What a run ran on: what decides its bytes, and the machine in words, for the record beside its time."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "numpy", "pillow")  # whose versions matter to a result

# oneDNN's instruction sets, each with what the processor needs for it, in the order of ONEDNN_MAX_CPU_ISA
ONEDNN_ISAS = {
    "SSE41": {"sse4_1"},
    "AVX": {"avx"},
    "AVX2": {"avx2"},
    "AVX2_VNNI": {"avx2", "avx_vnni"},
    "AVX2_VNNI_2": {"avx2", "avx_vnni", "avx_vnni_int8", "avx_ne_convert"},
    "AVX512_CORE": {"avx512_f", "avx512_bw", "avx512_vl", "avx512_dq"},
    "AVX512_CORE_VNNI": {"avx512_f", "avx512_vnni"},
    "AVX512_CORE_BF16": {"avx512_f", "avx512_vnni", "avx512_bf16"},
    "AVX512_CORE_FP16": {"avx512_f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni"},
    "AVX512_CORE_AMX": {"avx512_f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"},
    "AVX512_CORE_AMX_FP16": {"avx512_f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16"},
}


def arithmetic(device: str, precision: str) -> dict[str, Any]:
    """Return what decides the last digits of a run on `device` (cpu, cuda): the same while nothing of it changes.

    Keys: processor, isa (torch's and oneDNN's instruction sets), threads, precision, versions; on a GPU also gpu.
    """
    import torch

    facts: dict[str, Any] = {"processor": processor(), "isa": isa(), "threads": torch.get_num_threads()}
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        facts["gpu"] = {
            "name": torch.cuda.get_device_name(),
            "capability": f"{major}.{minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    return facts | {"precision": precision, "versions": versions()}


def isa() -> dict[str, str]:
    """Return the instruction sets in use: torch's own, and oneDNN's (x86), each limited by its environment variable."""
    import torch

    found = {"torch": torch.backends.cpu.get_cpu_capability()}
    has = {name for name, value in torch.cpu.get_capabilities().items() if value is True}
    usable = [name for name, needs in ONEDNN_ISAS.items() if needs <= has]
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()  # the older name
    if limit in ONEDNN_ISAS:
        names = list(ONEDNN_ISAS)
        usable = [name for name in usable if names.index(name) <= names.index(limit)]
    return found | ({"onednn": usable[-1]} if usable else {})


def hardware(device: str) -> str:
    """Return the device in words: the GPU's name, or the processor's and the number of usable cores."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor()}, {cores} cores"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter to a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Return the processor's name; on x86 under Linux with family and model, as virtual machines hide the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    first = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    name = first.get("model name", platform.machine())
    return f"{name} (family {first['cpu family']}, model {first['model']})" if "cpu family" in first else name
