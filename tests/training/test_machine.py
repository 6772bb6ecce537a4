"""What is recorded of the machine, against what torch and oneDNN say themselves."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from faces.training import machine

ROOT = Path(__file__).parents[2]
SAYS = """
import torch
from faces.training import machine
convolution = torch.nn.Conv2d(3, 64, 7).to(memory_format=torch.channels_last)
with torch.no_grad(), torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
    convolution(torch.ones(16, 3, 64, 64).to(memory_format=torch.channels_last))
print("recorded:", machine.isa()["onednn"], machine.isa()["torch"])
"""
WORDS = {  # oneDNN's own, in the first line of its verbose mode
    "SSE41": "Intel SSE4.1",
    "AVX": "Intel AVX",
    "AVX2": "Intel AVX2",
    "AVX2_VNNI": "Intel AVX2 with Intel DL Boost",
    "AVX2_VNNI_2": "Intel AVX2 with Intel DL Boost, float16, and bfloat16 support",
    "AVX512_CORE": "Intel AVX-512 with AVX512BW, AVX512VL, and AVX512DQ extensions",
    "AVX512_CORE_VNNI": "Intel AVX-512 with Intel DL Boost",
    "AVX512_CORE_BF16": "Intel AVX-512 with Intel DL Boost and bfloat16 support",
    "AVX512_CORE_FP16": "Intel AVX-512 with float16, Intel DL Boost, and bfloat16 support",
    "AVX512_CORE_AMX": "Intel AVX-512 with float16, Intel DL Boost, and bfloat16 support, "
    "and Intel AMX with bfloat16 and 8-bit integer support",
}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="these instruction sets are x86's")
@pytest.mark.parametrize(
    "limits", [{}, {"ONEDNN_MAX_CPU_ISA": "avx2", "ATEN_CPU_CAPABILITY": "avx2"}, {"DNNL_MAX_CPU_ISA": "AVX512_CORE"}]
)
def test_the_instruction_set_is_the_one_that_onednn_uses(limits: dict[str, str]) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_MAX_CPU_ISA")}
    done = subprocess.run(
        [sys.executable, "-c", SAYS],
        env={**environment, "PYTHONPATH": str(ROOT), **limits},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said = next(line.partition("isa:")[2] for line in done.stdout.splitlines() if ",info,cpu,isa:" in line)
    onednn, own = done.stdout.splitlines()[-1].removeprefix("recorded: ").split()
    assert said == WORDS[onednn]
    assert own == limits.get("ATEN_CPU_CAPABILITY", torch.backends.cpu.get_cpu_capability()).upper()


def test_what_decides_a_run_is_recorded_and_stays_the_same() -> None:
    facts = machine.arithmetic("cpu", "bf16")
    assert facts == machine.arithmetic("cpu", "bf16")
    assert list(facts) == ["processor", "isa", "threads", "precision", "versions"]
    assert facts["threads"] == torch.get_num_threads()
    assert facts["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert "dvc" not in facts["versions"]


def test_the_processor_is_named_with_family_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    info = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Xeon\n\nprocessor\t: 1\nmodel\t\t: 9\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: info)
    assert machine.processor() == "Xeon (family 6, model 143)"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "processor\t: 0\nCPU implementer\t: 0x41\n")
    assert machine.processor() == platform.machine()
