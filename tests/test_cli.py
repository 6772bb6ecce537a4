"""What every command does with a fault that the user can mend: one line, exit status 1, no traceback."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from faces.cli import InputError, run


def ended(fault: BaseException, monkeypatch: pytest.MonkeyPatch) -> str | int | None:
    """Return what a command that meets this fault passes to sys.exit: its last words, or a status."""

    def main() -> None:
        raise fault

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as end:
        run(main)
    return end.value.code


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (InputError("params.yaml: seed is missing"), "error: params.yaml: seed is missing"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "models/active/run.json"),
            "error: models/active/run.json is not",
        ),
        (OSError(errno.ENOSPC, "No space left on device", ".cache/a"), "error: cannot write: .cache/a: No space left"),
        (OSError(errno.EROFS, "Read-only file system"), "error: cannot write: Read-only file system"),
        (OSError(errno.EACCES, "Permission denied", "a/b"), "error: cannot open: a/b: Permission denied"),
        (OSError(errno.EISDIR, "Is a directory", "models"), "error: cannot open: models: Is a directory"),
        (MemoryError(), "error: the memory is full"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "error: the memory is full"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "error: the memory is full"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "error: the memory is full"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_one_line(fault: BaseException, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ended(fault, monkeypatch)
    assert isinstance(said, str)
    assert said.startswith(words)
    assert "\n" not in said


@pytest.mark.parametrize("fault", [ValueError("ours"), RuntimeError("ours"), OSError(errno.EIO, "Input/output error")])
def test_what_the_user_cannot_mend_keeps_its_traceback(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command"])

    def main() -> None:
        raise fault

    with pytest.raises(type(fault), match=str(fault.args[-1])):
        run(main)


def test_a_stage_whose_input_is_missing(tmp_path: Path) -> None:
    words = [tmp_path, tmp_path / "predictions", "paper.yaml", "--seeds", tmp_path / "seeds.json"]
    words += ["--out", tmp_path, "--headline", tmp_path / "model.json"]
    done = subprocess.run([sys.executable, "-m", "stages.compare", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: {tmp_path}")
    assert list(tmp_path.iterdir()) == []
