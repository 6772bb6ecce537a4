"""When the machine is in use: fewer threads are advised, and only then."""

import os
import subprocess
import sys

import psutil
import pytest

from ci.busy import advice, main


@pytest.mark.parametrize(
    ("cores", "busy", "threads", "better"),
    [
        (2, 0.1, 2, None),  # a desktop at rest
        (2, 0.6, 2, None),
        (2, 1.0, 2, 1),
        (2, 2.0, 2, 1),
        (2, 1.0, 1, None),  # as advised
        (16, 1.0, 16, 15),
        (16, 3.2, 16, 13),
        (16, 3.2, 8, None),
        (1, 1.0, 1, None),  # there is nothing to choose
    ],
)
def test_advice(cores: int, busy: float, threads: int, better: int | None) -> None:
    said = advice(cores, busy, threads)
    if better is None:
        assert said is None
    else:
        assert said is not None
        assert f"OMP_NUM_THREADS={better} " in said
        assert f"{busy:.1f} of {cores} cores" in said


def test_it_looks_at_the_machine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cores = len(os.sched_getaffinity(0))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(psutil, "cpu_percent", lambda seconds: 100.0)
    main(0)
    assert (f"{cores:.1f} of {cores} cores busy" in capsys.readouterr().out) == (cores > 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    main(0)
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="with one core there is nothing to advise")
def test_busy_programs_are_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    command = "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: pass"
    busy = [subprocess.Popen([sys.executable, "-c", command]) for _ in range(os.cpu_count() or 1)]
    try:
        main(1)
    finally:
        for program in busy:
            program.kill()
            program.wait()
    assert "use OMP_NUM_THREADS=1 " in capsys.readouterr().out
