"""The Makefile's targets: what they call, on which machines, and what they leave alone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
# A pipeline whose parameters `make trials` varies
PIPELINE = """
stages:
  train:
    cmd: python -c "import json, yaml; print(json.dumps(yaml.safe_load(open('params.yaml'))['train']))" > metrics.json
    params: [train]
    metrics: [metrics.json: {cache: false}]
"""


def make(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    without = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "TORCH", "VIRTUAL_"))}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=folder,
        env={**without, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Return a folder with the Makefile, whose `python` and `dvc` write their arguments to `calls`."""
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    commands = tmp_path / ".venv/bin"
    commands.mkdir(parents=True)
    for name in ("python", "python3", "dvc"):
        (commands / name).write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" >> {tmp_path}/calls\n')
        (commands / name).chmod(0o755)
    return tmp_path


def test_help_lists_every_target(recorded: Path) -> None:
    (phony,) = re.findall(r"^\.PHONY: ((?:\\\n|.)*)$", MAKEFILE, re.MULTILINE)
    targets = re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)
    assert sorted(phony.replace("\\", "").split()) == sorted(targets)
    helped = [line.split()[0] for line in make(recorded).stdout.splitlines()]
    assert helped == [target for target in targets if target not in ("python", "git", "scm")]  # of use to others only


@pytest.mark.parametrize("shell", ["bash", "dash", "zsh"])
def test_files_of_a_home_folder_from_every_shell(recorded: Path, shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    home = recorded / "home of O'Neil"
    home.mkdir()
    (home / "my weights.pth").write_bytes(b"weights")
    (home / "my weights.pth").chmod(0o444)
    command = "make repro ARCHIVE=~/'my archive.zip' WEIGHTS=~/'my weights.pth'"
    for _ in range(2):
        environment = {**os.environ, "HOME": str(home)}
        subprocess.run([shell, "-c", command], cwd=recorded, env=environment, check=True, capture_output=True)
        assert (recorded / "downloads/weights.pth").read_bytes() == b"weights"
    calls = (recorded / "calls").read_text(encoding="utf-8").split("\n")
    assert calls[calls.index("faces.source.kaggle_dataset") + 1] == f"{home}/my archive.zip"
    assert calls[-3:-1] == ["dvc", "repro"]


def test_without_git(recorded: Path) -> None:
    """A folder from a ZIP archive can be reproduced; what compares revisions says in Git's words why it cannot."""
    assert make(recorded, "repro").returncode == 0
    assert (recorded / "calls").read_text(encoding="utf-8").split("\n")[-10:-1] == (
        ["config", "--local", "core.no_scm", "true", "python", "-m", "ci.busy", "dvc", "repro"]
    )
    for target in ("trials", "sweep", "show", "gate", "freshness"):
        done = make(recorded, target, "BASE=main", GIT_CEILING_DIRECTORIES=str(recorded.parent))
        assert done.returncode == 2
        assert "fatal: not a git repository" in done.stdout
        assert "Traceback" not in done.stdout


def test_clean_removes_what_was_made_and_nothing_else(recorded: Path) -> None:
    mine = [".demo/notes.txt", ".soak/notes.txt", ".cache/notes.txt", ".gate/notes.txt"]
    made = [".cache/arrays/1.bin", ".gate/gate.json", ".mypy_cache/x"]
    for name in (*mine, *made):
        (recorded / name).parent.mkdir(parents=True, exist_ok=True)
        (recorded / name).touch()
    assert make(recorded, "clean").returncode == 0
    assert [name for name in (*mine, *made) if (recorded / name).exists()] == mine
    (recorded / ".demo/.made-by-the-demo").touch()
    (recorded / ".cache/notes.txt").unlink()
    assert make(recorded, "clean").returncode == 0
    assert not (recorded / ".demo").exists()
    assert not (recorded / ".cache").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trials_again_replace_the_earlier_ones(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    (tmp_path / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    (tmp_path / "params.yaml").write_text("train: {batch_size: 1, learning_rate: 1.0}\n", encoding="utf-8")
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHON": "true"}

    def execute(command: str) -> str:
        done = subprocess.run(
            command.split(), cwd=tmp_path, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    for command in ("git init --quiet", "git config user.name someone", "git config user.email someone@localhost"):
        execute(command)
    for command in ("dvc init --quiet", "dvc repro --quiet", "git add --all", "git commit --quiet --message=first"):
        execute(command)
    execute("make trials")
    first = execute("git for-each-ref --format=%(refname:lstrip=-1) refs/exps").split()
    execute("dvc exp remove trial-2")
    execute("dvc exp run --queue --name trial-2 --set-param train.batch_size=3")  # as an interrupted one leaves it
    table = execute("make trials")
    assert sorted(first) == ["trial-1", "trial-2", "trial-3"]
    assert sorted(execute("dvc exp list --name-only").split()) == sorted(first)
    for name, batch_size in (("trial-1", 32), ("trial-2", 128), ("trial-3", 256)):
        assert re.search(rf"{name} .*\b{batch_size}\b", table), table
