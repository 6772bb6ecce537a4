"""The whole pipeline on the drawn sample, in a copy of the repository that leaves the original untouched.

python -m ci.demo FOLDER
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pathspec
import typer
import yaml

from faces.cli import InputError, OutFolder, run
from faces.evidence.documents import RunMetrics, read_document
from faces.pages.markdown import table
from faces.params import load_params

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
    "networks": {"source": "none"},
    "audit": {"max_unreadable": 1},
    "splits": {
        **{f"seed{seed}": {"scheme": "stratified", "seed": seed, "groups": "duplicates"} for seed in (1, 2)},
        "children1": {"scheme": "stratified", "seed": 1, "groups": "children"},
    },
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
            "ema_decay": 0.8,  # there are 36 steps in all
            "transforms": {"resize": 72, "final_epochs": 2, "first_crop": 48, "crop": 64},
        },
    },
    "runs": {
        **{name: {"recipe": name, "split": "seed1", "seed": 1} for name in ("trial1", "trial2", "trial3", "improved")},
        "improved-split2": {"recipe": "improved", "split": "seed2", "seed": 1},
        "improved-children1": {"recipe": "improved", "split": "children1", "seed": 1},
    },
    "train": {**SHARED, **TRIAL_2},
    "evaluate": {"resamples": 500},
}
MARK = ".made-by-the-demo"
RESULTS = ("/metrics/", "/plots/", "/predictions/", "/dvc.lock", "/.dvc/tmp", "/.dvc/cache", "/.dvc/config.local")
NEXT = """
    dvc exp run -S train.batch_size=8     # another batch size: one row in the table
    dvc exp show --only-changed           # the experiments side by side
    dvc plots diff HEAD                   # their curves: a page that opens in a browser
"""
WHOLE = ("splits", "runs")  # sections of entries, which `overlay` replaces instead of adding to them


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


def prepare(target: Path, changes: dict[str, Any] = SAMPLE, git: bool = False) -> None:
    """Make a DVC project in an empty folder: this repository without its results, `changes` laid over params.yaml.

    git: make it a Git repository, too, so that experiments can be run in it.
    """
    copy_repository(target)
    path = target / "params.yaml"
    params = overlay(yaml.safe_load(path.read_text(encoding="utf-8")), changes)
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    data = yaml.safe_load((target / "data.dvc").read_text(encoding="utf-8"))
    for entry in (data, *data["deps"], *data["outs"]):  # what is recorded in them is of the real images
        for key in ("md5", "size", "nfiles", "hash"):
            entry.pop(key, None)
    (target / "data.dvc").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    (target / MARK).touch()
    if git:
        _run(target, "git", "init", "--quiet")
        _run(target, "git", "config", "user.name", "demo")
        _run(target, "git", "config", "user.email", "demo@localhost")
    else:
        config = target / ".dvc/config"
        text = config.read_text(encoding="utf-8")
        config.write_text(text.replace("[core]\n", "[core]\n    no_scm = true\n"), encoding="utf-8")


def copy_repository(target: Path, source: Path = Path()) -> None:
    """Copy a checkout, or an unpacked archive of one, without its results and without what .gitignore names."""
    lines = (source / ".gitignore").read_text(encoding="utf-8").splitlines()
    ignored = pathspec.GitIgnoreSpec.from_lines([*lines, ".git", *RESULTS])
    for folder, folders, files in os.walk(source):
        inside = Path(folder).relative_to(source)
        folders[:] = [name for name in folders if not ignored.match_file(f"{(inside / name).as_posix()}/")]
        for name in files:
            if not ignored.match_file((inside / name).as_posix()):
                (target / inside).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / inside / name, target / inside / name)


def reproduce(target: Path, *arguments: str) -> None:
    """Run `dvc repro` in a project, with a cache of its own."""
    _run(target, sys.executable, "-m", "dvc", "repro", *arguments)


def summary(folder: Path) -> str:
    """Return a short table of the compared runs on the test images of a project that has been run."""
    compared = load_params(folder / "params.yaml").compared
    found = {name: read_document(RunMetrics, folder / f"metrics/runs/{name}.json").metrics for name in compared}
    header = ("run", "accuracy", "AUROC", "test images")
    rows = [(name, m["accuracy"].percent, m["auroc"].decimal, m["accuracy"].n) for name, m in found.items()]
    return table(header, rows)


def remove_earlier(folder: Path, mark: Path) -> None:
    """Delete a folder that an earlier call of a command has made, as a file in it shows; InputError for any other."""
    if folder.exists():
        if not mark.is_file() and any(folder.iterdir()):
            raise InputError(f"{folder} is there, and this command has not made it; name another folder")
        shutil.rmtree(folder)


def _run(target: Path, *command: str) -> None:
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # the stages' python
    cache = str(target.resolve() / ".cache")
    environment = {**os.environ, "PATH": here, "FACES_CACHE": cache, "DVC_NO_ANALYTICS": "1"}
    subprocess.run(command, cwd=target, env=environment, check=True)


def main(folder: Annotated[OutFolder, typer.Argument(help="made, or made again if an earlier demo made it")]) -> None:
    """Run the whole pipeline on drawn faces, in a copy of the repository that leaves the original untouched."""
    remove_earlier(folder, folder / MARK)
    git = shutil.which("git") is not None
    try:
        prepare(folder, git=git)
        reproduce(folder)
        if git:
            _run(folder, "git", "add", "--all")
            _run(folder, "git", "commit", "--quiet", "--message=The demo's results")
    except subprocess.CalledProcessError as error:
        raise typer.Exit(error.returncode) from None  # the command has said why
    print()
    print(summary(folder))
    print(f"\nDrawn faces: the numbers mean nothing. All pages and figures: {folder}/reports/index.html")
    if git:
        print(f"\nNext, in {folder} (cd {folder}; . {Path(sys.prefix) / 'bin/activate'}):\n{NEXT}")


if __name__ == "__main__":
    run(main)
