"""The shell blocks of README and docs, word for word and in order, in fresh clones, on the sample."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci import demo

REPOSITORY = Path(__file__).parents[1]
SMALL = demo.overlay(
    demo.overlay(demo.SAMPLE, {"sample": {"images_per_class": 24}, "evaluate": {"resamples": 100}}),
    demo.every_run(freeze="layer4", max_epochs=1, transforms={"resize": 32, "crop": 32}),
)
COLUMNS = 120
# On PATH before DVC: what README leaves to the reader, filled in
DVC = """#!/bin/bash
exec {python} -m dvc "${{@/#s3:\\/\\/bucket\\/faces/{remote}}}"
"""


# Where each block is run: a test of this file, another file, or nowhere, and then why
WHERE = {
    ("README.md", ""): ["test_the_first_commands"],
    ("README.md", "Vary a parameter"): ["test_vary_a_parameter", "test_vary_a_parameter"],
    ("README.md", "Compare"): ["test_compare"],
    ("README.md", "Share"): ["test_share"],
    ("README.md", "Use the result"): ["test_use_the_result"],
    ("CONTRIBUTING.md", ""): [".ci/run"],
    ("CONTRIBUTING.md", "What makes results stale"): ["test_what_makes_results_stale"],
    ("docs/experiments.md", "Vary a parameter"): ["test_an_experiment_to_its_commit"] * 2,
    ("docs/experiments.md", "Compare"): ["test_an_experiment_to_its_commit"] * 2,
    ("docs/experiments.md", "Share"): ["test_an_experiment_to_its_commit"] * 2,
    ("docs/experiments.md", "Keep a change"): ["test_an_experiment_to_its_commit"],
    ("docs/install.md", ""): ["tests/test_install.py"],
    ("docs/install.md", "Without an NVIDIA GPU"): ["nowhere: it downloads PyTorch again"],
    ("docs/install.md", "Change what is pinned"): ["nowhere: it asks a registry what is new"],
    ("docs/speed.md", "Several GPUs, several machines"): [
        "tests/training/test_distributed.py",
        "tests/training/test_distributed.py",
        "nowhere: it needs four GPUs",
        "test_share",
    ],
}


def slow(test: Callable[..., None]) -> Any:
    """Mark a test that runs the pipeline several times."""
    return pytest.mark.slow(pytest.mark.timeout(1800)(test))


def sections(file: str) -> dict[str, list[str]]:
    """Return the shell blocks of a file by the heading (##) they stand under; what comes before any is ""."""
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    parts = ["", *re.split(r"^## (.+)\n", text, flags=re.MULTILINE)]
    found = {
        heading: re.findall(r"^```(?:ba)?sh\n(.*?)^```", body, re.M | re.S)
        for heading, body in zip(parts[::2], parts[1::2], strict=True)
    }
    return {heading: blocks for heading, blocks in found.items() if blocks}


def blocks(section: str, file: str = "README.md") -> list[str]:
    """Return the shell blocks below a heading."""
    return sections(file)[section]


class Clone:
    """A clone of a Git repository, with a DVC cache and an environment of its own, in which shell blocks are run."""

    def __init__(self, origin: Path, root: Path) -> None:
        self.root = root
        settings = {
            "PATH": f"{root.parent / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COLUMNS": str(COLUMNS),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(root.parent / "site"),
            "OMP_NUM_THREADS": "1",
        }
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))}
        self.environment |= settings
        subprocess.run(["git", "clone", "--quiet", str(origin), str(root)], check=True)
        self.run("git config user.name Someone && git config user.email someone@localhost")
        # `make install` has been done: the running interpreter's environment, newer than requirements.txt
        (root / ".venv").mkdir()
        for path in Path(sys.prefix).iterdir():
            (root / ".venv" / path.name).symlink_to(path)
        (root / ".venv/.installed").unlink(missing_ok=True)
        (root / ".venv/.installed").touch()

    def run(self, block: str) -> str:
        """Run commands in Bash, and return what they print."""
        command = ["bash", "-euo", "pipefail", "-c", block]
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def reset(self) -> None:
        """Bring the committed results back."""
        self.run("git checkout --quiet . && dvc checkout --quiet")

    def experiments(self) -> dict[str, str]:
        """Return the experiments' names, and their full hashes."""
        found = self.run("git for-each-ref --format='%(objectname) %(refname)' refs/exps")
        return {name: commit for commit, name in re.findall(r"^(\w+) refs/exps/\w\w/\w{38}/(.+)$", found, re.M)}

    def at(self, commit: str, path: str) -> str:
        """Return a tracked file's text in a commit."""
        return self.run(f"git show {commit}:{path}")

    def wait(self) -> None:
        """Wait until the queue has no task that waits or runs."""
        deadline = time.monotonic() + 900
        while re.search(r"\b(Queued|Running)\b", status := self.run("dvc queue status")):
            assert time.monotonic() < deadline, status
            time.sleep(3)
        assert "Failed" not in status, status


def frozen(tree: Path, on: bool) -> None:
    """Freeze three stages, or let them run: they follow the active run, and would double the time of each experiment.

    `dvc freeze` refuses a stage with a parameter in it, as `explain` is.
    """
    path = tree / "dvc.yaml"
    text = path.read_text(encoding="utf-8")
    for name in ("explain", "plot", "report"):
        plain, held = f"\n  {name}:\n", f"\n  {name}:\n    frozen: true\n"
        assert text.count(plain) == 1
        text = text.replace(*((plain, held) if on else (held, plain)))
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bare Git repository of this tree, with the sample's parameters."""
    folder = tmp_path_factory.mktemp("experiments")
    tree = folder / "tree"
    demo.prepare(tree, SMALL)
    for name in (".dvc/config", ".dvc/.gitignore"):  # those of a project in Git
        (tree / name).write_bytes((REPOSITORY / name).read_bytes())
    (folder / "bin").mkdir()
    wrapper = folder / "bin/dvc"
    remote = str(folder / "remote").replace("/", "\\/")
    wrapper.write_text(DVC.format(python=sys.executable, remote=remote), encoding="utf-8")
    wrapper.chmod(0o755)
    frozen(tree, True)
    identity = "-c user.name=Someone -c user.email=someone@localhost"
    for command in (
        "git init --quiet --initial-branch=main",
        "git add --all",
        f"git {identity} commit --quiet --message=sample",
        f"git clone --quiet --bare . {folder / 'origin.git'}",
    ):
        subprocess.run(command.split(), cwd=tree, check=True)
    return folder / "origin.git"


@pytest.fixture(scope="module")
def mine(origin: Path) -> Iterator[Clone]:
    """Return a clone whose pipeline has run, the results committed and pushed."""
    clone = Clone(origin, origin.parent / "mine")
    frozen(clone.root, False)
    clone.run("dvc repro")
    frozen(clone.root, True)
    clone.run("git add --all && git commit --quiet --message=results && git push --quiet origin main")
    yield clone
    clone.run("dvc queue stop --kill")


@pytest.fixture(scope="module")
def trials(mine: Clone) -> Clone:
    """Return the clone after `make trials`."""
    mine.table = mine.run("make trials")  # type: ignore[attr-defined]
    return mine


def headline(clone: Clone, commit: str) -> dict[str, float]:
    found: dict[str, float] = json.loads(clone.at(commit, "metrics/metrics.json"))
    return found


def test_every_block_is_run_or_named() -> None:
    files = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in REPOSITORY.glob("docs/*.md"))]
    found = {(file, heading): len(shell) for file in files for heading, shell in sections(file).items()}
    assert found == {place: len(runners) for place, runners in WHERE.items()}
    for runner in {runner for runners in WHERE.values() for runner in runners}:
        assert runner in globals() or runner.startswith("nowhere: ") or (REPOSITORY / runner).is_file(), runner


@slow
def test_the_first_commands(mine: Clone) -> None:
    """`make demo` is left out (it is this pipeline, in a folder of its own), and so is `make test`, which is this."""
    (block,) = blocks("")
    demo_, test_, *rest = block.splitlines()
    assert demo_.startswith("make demo ")
    assert test_.startswith("make test ")
    printed = mine.run("\n".join(rest))
    assert "Data and pipelines are up to date." in printed  # they have run
    assert "consistent with the committed results" in printed
    recipe = json.loads((mine.root / "models/active/run.json").read_text(encoding="utf-8"))["recipe"]
    assert recipe["batch_size"] == 64
    mine.reset()
    mine.run("dvc exp remove --all-commits")


@slow
def test_vary_a_parameter(mine: Clone) -> None:
    one, several = blocks("Vary a parameter")
    mine.run(one)
    recipe = json.loads((mine.root / "models/active/run.json").read_text(encoding="utf-8"))["recipe"]
    assert (recipe["batch_size"], recipe["learning_rate"]) == (64, 0.0003)
    assert len(mine.experiments()) == 1
    mine.reset()

    mine.run(several)
    mine.wait()
    found = [yaml.safe_load(mine.at(commit, "params.yaml"))["train"] for commit in mine.experiments().values()]
    swept = sorted((train["batch_size"], train["learning_rate"]) for train in found)
    assert swept == [(32, 0.0001), (32, 0.001), (64, 0.0001), (64, 0.0003), (64, 0.001)]
    assert mine.run("git status --porcelain") == ""  # the queue works elsewhere


@slow
def test_compare(trials: Clone) -> None:
    (block,) = blocks("Compare")
    table: str = trials.table  # type: ignore[attr-defined]
    for text in (table, trials.run("make show")):
        shown = [line for line in text.splitlines() if line.startswith("|")]
        assert max(map(len, shown)) <= COLUMNS, text
        for name in ("trial-1", "trial-2", "trial-3", "train.batch_size", "train.learning_rate"):
            assert any(name in line for line in shown), f"{name} is missing:\n{text}"

    header = trials.run("dvc exp show --csv").splitlines()[0].split(",")
    first = header.index("accuracy")  # after what DVC says of the experiment
    assert set(header[:first]) <= {"Experiment", "rev", "typ", "Created", "parent", "State", "Executor"}
    assert header[first : first + 4] == ["accuracy", "recall", "specificity", "auroc"]
    assert {"improved.accuracy", "train.batch_size"} <= {*header}
    assert not [name for name in header if name.startswith(("gate", "sweep", "ci/", "alpha", "variants"))]

    experiments = trials.experiments()
    assert trials.run("git status --porcelain") == ""
    trials.run("dvc exp apply trial-3")
    params = yaml.safe_load((trials.root / "params.yaml").read_text(encoding="utf-8"))
    assert params["train"]["batch_size"] == 256
    now = json.loads((trials.root / "metrics/metrics.json").read_text(encoding="utf-8"))
    assert now == headline(trials, experiments["trial-3"])

    printed = trials.run(block)  # the working tree, trial 3, with HEAD
    assert "metrics/metrics.json" in printed
    assert (trials.root / "dvc_plots/index.html").stat().st_size > 10_000
    assert "| active | accuracy |" in printed
    difference = trials.run("dvc exp diff trial-1 trial-2")
    assert re.search(r"train\.batch_size +32 +128 +96", difference), difference
    assert "index.html" in trials.run("dvc plots diff trial-1 trial-2")
    trials.reset()


@slow
def test_share(trials: Clone, origin: Path) -> None:
    (give,) = blocks("Share")
    *_, other_machine = blocks("Several GPUs, several machines", "docs/speed.md")
    trials.run(give)
    theirs = Clone(origin, origin.parent / "their clone")
    theirs.run(give.splitlines()[0])  # the remote
    theirs.run("dvc exp pull origin trial-1")
    assert theirs.experiments()["trial-1"] == trials.experiments()["trial-1"]
    frozen(theirs.root, False)  # a frozen stage cannot make what was never pushed
    printed = theirs.run(other_machine)
    assert "Running stage 'train'" in printed
    assert "Running stage 'run@" not in printed  # nothing is trained twice
    trials.run("dvc exp pull origin seed-2")
    params = yaml.safe_load(trials.at(trials.experiments()["seed-2"], "params.yaml"))
    assert params["train"]["seed"] == 2


@slow
def test_use_the_result(mine: Clone) -> None:
    (block,) = blocks("Use the result")
    printed = mine.run(block.replace("PATH...", "data/down_syndrome"))  # the other class has a broken image
    images = len([*(mine.root / "data/down_syndrome").iterdir()])
    assert printed.count("data/down_syndrome/") == images
    assert (mine.root / "model.onnx").stat().st_size > 1_000_000
    mine.run("rm model.onnx")
    assert mine.run("git status --porcelain") == ""


@slow
def test_what_makes_results_stale(mine: Clone) -> None:
    (block,) = blocks("What makes results stale", "CONTRIBUTING.md")
    printed = mine.run(block)
    assert "dvc.lock matches code and parameters at HEAD" in printed
    assert "| the same |" in printed
    mine.reset()


@slow
def test_an_experiment_to_its_commit(mine: Clone, origin: Path) -> None:
    """docs/experiments.md from its first block to its last, in a clone whose stages all run."""
    file = "docs/experiments.md"
    one, several = blocks("Vary a parameter", file)
    compare, gate = blocks("Compare", file)
    give, take = blocks("Share", file)
    (keep,) = blocks("Keep a change", file)
    ours = Clone(origin, origin.parent / "ours")
    frozen(ours.root, False)
    ours.run(f"dvc config --local cache.dir '{mine.root}/.dvc/cache'")
    ours.run("git commit --quiet --all --message='all stages' && dvc repro && git push --quiet origin HEAD:all")

    ours.run(one)
    ours.reset()
    ours.run(several)
    ours.wait()
    assert len(ours.experiments()) == 7
    assert "small-batch" in ours.run(compare)
    ours.run("rm -r dvc_plots")
    ours.run(gate)
    ours.reset()
    ours.run(give)

    theirs = Clone(origin, origin.parent / "their own")
    theirs.run("git switch --quiet all")
    theirs.run(take)
    params = yaml.safe_load((theirs.root / "params.yaml").read_text(encoding="utf-8"))
    assert params["train"]["batch_size"] == 64
    for name in ("models/active/model.pt", "models/runs/trial1/model.pt", "reports/index.html"):
        assert (theirs.root / name).is_file(), name
    assert not any((theirs.root / "data").rglob("*.jpg"))
    assert "Running stage" not in theirs.run("dvc repro --dry --allow-missing")  # nothing to rebuild

    assert "dvc.lock matches code and parameters at HEAD" in ours.run(keep)
    assert ours.run("git status --porcelain") == ""
    assert ours.run("git log -1 --format=%s").strip() == "Train: batch of 64, learning rate 0.0003"


@slow
def test_curves_while_it_trains(mine: Clone) -> None:
    """What DVC's extension for editors asks while the active run trains, and DVC holds its locks."""
    path = mine.root / "plots/active/history.csv"

    def epochs() -> int:
        shown = json.loads(mine.run("dvc plots diff --json --split --out .dvc/tmp/plots"))
        (curve,) = shown["data"]["active_loss"]
        rows = curve["anchor_definitions"]["<DVC_METRIC_DATA>"]
        return max(int(row["epoch"]) for row in rows if row["rev"] == "workspace")

    many = "-S train.max_epochs=5000 -S train.patience=5000 -S train.learning_rate=0.0002"
    finished = epochs()
    log = mine.root.parent / "training.log"  # a pipe that nobody reads would fill up, and stop the training
    with log.open("w", encoding="utf-8") as said:
        run = subprocess.Popen(
            f"{mine.root.parent}/bin/dvc exp run {many}".split(),
            cwd=mine.root,
            env=mine.environment,
            stdout=said,
            stderr=said,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        )
    try:
        deadline = time.monotonic() + 300
        while not path.exists() or len(path.read_text(encoding="utf-8").splitlines()) <= 1 + finished:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        first, second = epochs(), epochs()
        shown = json.loads(mine.run("dvc exp show --json"))[0]
        mine.run("dvc data status --granular --unchanged --json")
        assert run.poll() is None  # none of them has waited for the training's end
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGINT)
            run.wait(60)
    assert finished < first < second
    assert shown["rev"] == "workspace"
    assert shown["data"]["params"]["params.yaml"]["data"]["train"]["learning_rate"] == 0.0002
    # nor have they disturbed it
    assert "interrupted; the same command goes on from here" in log.read_text(encoding="utf-8")
    mine.run("git checkout params.yaml metrics plots && dvc checkout --force")
    assert "up to date" in mine.run("dvc status")
    assert mine.run("git status --porcelain") == ""
