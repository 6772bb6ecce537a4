"""A run comes and goes with its one entry in params.yaml: trained, evaluated, compared, drawn, reported, gated."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ci import demo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SMALL = demo.overlay(
    demo.overlay(demo.SAMPLE, {"sample": {"images_per_class": 24}, "evaluate": {"resamples": 100}}),
    demo.every_run(freeze="layer4", max_epochs=1, transforms={"resize": 32, "crop": 32}),
)
FOURTH = {"recipe": "trial2", "split": "seed1", "seed": 1, "change": {"batch_size": 4}}
LEFT_OVER = [
    f"{folder}/trial3{suffix}"
    for folder, suffix in (
        ("plots/history", ".csv"),
        ("plots/curves", ""),
        ("metrics/runs", ".json"),
        ("predictions/runs", ".csv"),
    )
]


def run(root: Path, *command: str, status: int = 0) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "FACES_CACHE": str(root / ".cache"),
        "DVC_NO_ANALYTICS": "1",
    }
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == status, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def commit(root: Path) -> None:
    run(root, "git", "add", "--all")
    run(root, "git", "commit", "--quiet", "--message=results")


def set_run(root: Path, name: str, entry: dict[str, object] | None) -> None:
    """Add an entry to `runs`, or take one away."""
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    if entry is None:
        del params["runs"][name]
    else:
        params["runs"][name] = entry
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def read(root: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((root / "metrics" / name).read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Git repository in which the pipeline has run, its results committed and pushed to a remote."""
    root = tmp_path_factory.mktemp("runs") / "project"
    demo.prepare(root, SMALL, git=True)
    run(root, "dvc", "repro")
    run(root, "dvc", "remote", "add", "--default", "shared", str(root.parent / "remote"))
    commit(root)
    run(root, "dvc", "push")
    return root


def test_a_fourth_trial_by_one_entry(project: Path) -> None:
    before = read(project, "runs/trial2.json")
    set_run(project, "trial4", FOURTH)
    run(project, "dvc", "repro")
    recipe = read(project, "runs/trial4.json")["training"]["recipe"]  # type: ignore[index]
    assert recipe == {**before["training"]["recipe"], "batch_size": 4}  # type: ignore[index]
    assert (project / "models/runs/trial4/threshold.json").is_file()
    assert (
        "trial4" in read(project, "comparison.json")["recipes"] or "trial4" in read(project, "comparison.json")["names"]
    )
    assert (project / "plots/figures/curves_trial4.png").is_file()
    for page in ("plots/compared/roc.csv", "reports/index.html", "metrics/comparison.md", "MODEL_CARD.md"):
        assert re.search("trial ?4", (project / page).read_text(encoding="utf-8")), page
    assert "trial4" in run(project, sys.executable, "-m", "ci.gate", "HEAD")
    assert read(project, "runs/trial2.json") == before
    commit(project)
    assert "matches" in run(project, sys.executable, "-m", "ci.freshness")


def test_without_the_third_no_stage_misses_it_in_a_clone_too(project: Path) -> None:
    run(project, "dvc", "push")
    clone = project.parent / "clone"
    run(project, "git", "clone", "--quiet", str(project), str(clone))
    run(clone, "git", "config", "user.name", "t")
    run(clone, "git", "config", "user.email", "t@localhost")
    run(clone, "dvc", "pull", "--allow-missing")  # no photograph is ever pushed
    set_run(clone, "trial3", None)
    commit(clone)
    behind = run(clone, sys.executable, "-m", "ci.freshness", status=1)
    for words in ("compare", "plot", "report", "plots/history/trial3.csv is left over"):
        assert words in behind
    run(clone, "git", "rm", "-r", "--quiet", *LEFT_OVER)
    said = run(clone, "dvc", "repro")
    assert "Running stage 'run@" not in said  # the others are as they were
    assert "trial3" not in read(clone, "comparison.json")["recipes"]  # type: ignore[operator]
    assert not (clone / "plots/figures/curves_trial3.png").exists()
    assert "trial 3" not in (clone / "MODEL_CARD.md").read_text(encoding="utf-8")
    commit(clone)
    assert "matches" in run(clone, sys.executable, "-m", "ci.freshness")
