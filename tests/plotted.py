"""A repository with results of the drawn sample, and its fresh clone: what Git holds, and no cache."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import drawn_runs
import yaml


def make(origin: Path) -> None:
    """Make a repository with results of the drawn sample, and commit them."""
    drawn_runs.make(origin, source="sample", n=60)
    params = (origin / "params.yaml").read_text(encoding="utf-8")
    (origin / "params.yaml").write_text(params.replace("source: kaggle", "source: sample", 1), encoding="utf-8")
    for name in ("dvc.yaml", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        (origin / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(drawn_runs.REPOSITORY / name, origin / name)
    shutil.copytree(drawn_runs.REPOSITORY / ".dvc/plots", origin / ".dvc/plots")
    draw(origin)
    for command in ("git init --quiet", "git add --all", "git commit --quiet --message=results"):
        execute(origin, *command.split())


def clone(origin: Path, target: Path) -> None:
    """Clone a repository, and write what `make install` writes for the plots."""
    execute(origin, "git", "clone", "--quiet", ".", str(target))
    execute(target, "python", "-m", "ci.vega")


def draw(folder: Path) -> None:
    """Run the stage `plot` as dvc.yaml does."""
    stages = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    execute(folder, *stages["plot"]["cmd"].split())


def execute(folder: Path, *command: str) -> str:
    """Run a command in a folder, with this Python's programs first; returns what it prints."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    who = {f"GIT_{role}_{what}": "test@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **who, "PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(drawn_runs.REPOSITORY)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
