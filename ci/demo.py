"""Run the whole pipeline on the drawn sample, in a copy of the repository that leaves the original untouched.

Usage: python -m ci.demo FOLDER
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

SHARED: dict[str, Any] = {  # by all recipes: small pictures, few epochs
    "freeze": "layer2",
    "max_epochs": 6,
    "patience": 3,
    "transforms": {"resize": 64, "crop": 72, "scale": [0.5, 1.0]},
}
TRIAL_2 = {"batch_size": 16, "learning_rate": 0.001}
SAMPLE: dict[str, Any] = {  # laid over params.yaml: drawn faces, random weights
    "data": {"source": "sample"},
    "sample": {"images_per_class": 60},
    "weights": {"source": "random"},
    "audit": {"max_unreadable": 1},
    "splits": {f"seed{seed}": {"scheme": "stratified", "seed": seed} for seed in (1, 2)},
    "recipe": SHARED,
    "recipes": {
        "trial1": {"batch_size": 8, "learning_rate": 0.0001},
        "trial2": TRIAL_2,
        "trial3": {"batch_size": 32, "learning_rate": 0.001},
        "improved": {
            "batch_size": 16,
            "learning_rate": 0.001,
            "freeze": "layer2",
            "max_epochs": 6,
            "patience": 6,
            "transforms": {"first_crop": 48, "crop": 64, "evaluation_crop": 72},
        },
    },
    "runs": {
        **{name: {"recipe": name, "split": "seed1", "seed": 1} for name in ("trial1", "trial2", "trial3", "improved")},
        "improved-split2": {"recipe": "improved", "split": "seed2", "seed": 1},
    },
    "train": {**SHARED, **TRIAL_2},
    "evaluate": {"resamples": 500},
}
WHOLE = ("splits", "runs")  # sections of entries, which `overlay` replaces instead of adding to them

CONFIG = """[core]
    no_scm = true
    analytics = false
    check_update = false
[cache]
    type = "reflink,hardlink,symlink,copy"
"""


def overlay(params: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `params` with the nested `changes` laid over them; sections named in WHOLE are replaced."""
    merged = dict(params)
    for key, value in changes.items():
        nested = isinstance(value, dict) and key not in WHOLE
        merged[key] = overlay(merged.get(key) or {}, value) if nested else value
    return merged


def every_run(**changes: Any) -> dict[str, Any]:
    """Return changes to what all recipes share, and to the active run, which has a whole recipe of its own."""
    return {"recipe": changes, "train": changes}


def copy_repository(target: Path) -> None:
    """Copy what Git tracks or would track, results aside, into an empty DVC project without Git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], check=True, capture_output=True
    )
    for name in listed.stdout.decode().split("\0"):
        if not name or name.startswith((".dvc/", "metrics/", "plots/", "predictions/")) or name == "dvc.lock":
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if Path(name).exists():
            shutil.copyfile(name, target / name)
    # the import's recorded hashes are those of the real images
    (target / "data.dvc").write_text("deps:\n- path: downloads/images\nouts:\n- path: data\n", encoding="utf-8")
    _dvc(target, "init", "--quiet", "--no-scm")
    (target / ".dvc/config").write_text(CONFIG, encoding="utf-8")


def prepare(target: Path, changes: dict[str, Any] = SAMPLE) -> None:
    """Make a project in `target` whose parameters have `changes` laid over them."""
    copy_repository(target)
    path = target / "params.yaml"
    params = overlay(yaml.safe_load(path.read_text(encoding="utf-8")), changes)
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def reproduce(target: Path, *arguments: str) -> None:
    """Run `dvc repro` in a project, with a cache of its own."""
    _dvc(target, "repro", *arguments)


def _dvc(target: Path, *arguments: str) -> None:
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # the stages' python
    cache = str(target.resolve() / ".cache")
    environment = {**os.environ, "PATH": here, "FACES_CACHE": cache, "DVC_NO_ANALYTICS": "1"}
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=target, env=environment, check=True)


def main(target: Path) -> None:
    """Run the demo and print its comparison table."""
    if target.exists():
        shutil.rmtree(target)
    prepare(target)
    reproduce(target)
    print()
    print((target / "metrics/comparison.md").read_text(encoding="utf-8"))
    print(f"Plots: {target}/plots/*.png   Report: {target}/reports/index.html   (drawn sample, not the paper's data)")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(Path(sys.argv[1]))
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
