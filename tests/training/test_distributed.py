"""Two processes train the model that one process trains, on two machines and after kills, too.

A process that torchrun starts spends seconds on imports, as torchrun itself does. So it starts only the first two; the
others are started as it would start them, with the imports done.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from forked import finish, start, start_together
from pipeline import training_inputs

from ci import demo

SMALL = demo.overlay(
    demo.overlay(
        demo.SAMPLE,
        demo.every_run(
            freeze="layer3",
            max_epochs=3,
            patience=3,
            precision="fp32",
            ema_decay=0.5,
            reestimate_norms=True,
            calibrate=True,
            transforms={"resize": 48, "crop": 48},
        ),
    ),
    {
        "recipes": {
            # small steps: larger ones amplify rounding (tests/test_reference.py)
            "trial1": {"batch_size": 13, "learning_rate": 0.00003},
            "trial2": {  # many quick epochs, in which to kill it
                "batch_size": 13,
                "learning_rate": 0.001,
                "freeze": "layer4",
                "max_epochs": 30,
                "patience": 30,
                "transforms": {"crop": 32},
            },
        },
    },
)
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
OUTPUTS = ("model.pt", "history.csv", "run.json")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    training_inputs(root, SMALL, per_class=20, train=15)
    for name in ("faces", "stages"):
        shutil.copytree(name, root / name)
    return root


@pytest.fixture(scope="module")
def one(project: Path) -> Path:
    """Return the outputs of a single process."""
    finish(start(project, "one"))
    return project / "one"


@pytest.fixture(scope="module")
def two(project: Path) -> Path:
    """Return the outputs of two processes that torchrun started."""
    words = ["stages.train", "trial1", "data", "split/seed1.csv", "--weights", "weights", "--out", "two"]
    words += ["--landmarks", "embed/landmarks.csv", "--detector", "weights/faces"]
    launched = subprocess.run(
        [sys.executable, "-m", *TORCHRUN, *words, "--history", "two/history.csv"],
        cwd=project,
        env={**os.environ, "FACES_CACHE": str(project / "cache-two"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert launched.returncode == 0, launched.stdout[-4000:]
    return project / "two"


def train_by_two(project: Path, out: str, **options: str | Path) -> None:
    finish(*start_together([project, project], out, local_ranks=[0, 1], **options))


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def test_two_processes_train_the_model_of_one(project: Path, one: Path, two: Path) -> None:
    """Batches of 13 and a last one of 4, shared by two: 7 and 6, 2 and 2.

    Without the exchange of gradients, or of the batch norms' statistics, these tolerances are missed by far.
    """
    history = [pd.read_csv(folder / "history.csv") for folder in (one, two)]
    assert len(history[0]) == len(history[1]) == 3
    for column in ("train_loss", "val_loss"):
        np.testing.assert_allclose(history[1][column], history[0][column], rtol=1e-3)
    assert history[0]["train_loss"].iloc[-1] < 0.97 * history[0]["train_loss"].iloc[0]  # something was learned

    states = [torch.load(folder / "model.pt", weights_only=True) for folder in (one, two)]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-3, atol=1e-3, msg=lambda m, key=key: f"{key}: {m}")
    before = torch.load(project / "weights/resnet34.pth", weights_only=True)["layer4.2.conv2.weight"]
    step = (states[0]["layer4.2.conv2.weight"] - before).norm()
    apart = (states[1]["layer4.2.conv2.weight"] - states[0]["layer4.2.conv2.weight"]).norm()
    assert apart < 0.1 * step

    facts = [json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in (one, two)]
    assert [run["processes"] for run in facts] == [1, 2]
    assert all(facts[0][key] == facts[1][key] for key in ("recipe", "images", "n_train", "best_epoch"))
    timing = json.loads((two / "timing.json").read_text(encoding="utf-8"))
    # three epochs, the batch norms' statistics, validation: no image twice
    assert timing["images_through_frozen_body"] == 3 * 30 + 30 + 10


def test_two_machines_train_the_model_of_two_processes(project: Path, two: Path, tmp_path: Path) -> None:
    """Each has a folder of its own, and the second one does not get the results."""
    machines = [tmp_path / "first", tmp_path / "second"]
    for folder in machines:
        shutil.copytree(project, folder, ignore=shutil.ignore_patterns("cache-*", "one", "two"))
    finish(*start_together(machines, "out", local_ranks=[0, 0]))
    assert results(machines[0] / "out") == results(two)
    assert not (machines[1] / "out").exists()


def test_a_killed_process_changes_nothing(project: Path) -> None:
    train_by_two(project, "undisturbed", run="trial2")
    running = start_together([project, project], "killed", local_ranks=[0, 1], run="trial2")
    history, deadline = project / "killed" / "history.csv", time.monotonic() + 120
    while not (history.exists() and len(history.read_text(encoding="utf-8").splitlines()) > 2):
        assert all(process.is_alive() for process in running)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running[1].kill()
    for process in running:  # the other one does not wait for ever
        process.join(timeout=120)
        assert process.exitcode not in (None, 0)
    assert not (project / "killed" / "run.json").exists()
    assert any((project / "cache-killed" / "checkpoints").glob("*.pt"))
    train_by_two(project, "killed", run="trial2")
    assert results(project / "killed") == results(project / "undisturbed")


def test_processes_take_a_finished_run(project: Path, one: Path, tmp_path: Path) -> None:
    """The first process alone decides: the second one's machine has no finished runs."""
    finished = tmp_path / "finished"
    finished.mkdir()
    (finished / "trial1").symlink_to(one)
    elsewhere = tmp_path / "second"
    shutil.copytree(project, elsewhere, ignore=shutil.ignore_patterns("cache-*", "one", "two", "undisturbed", "killed"))
    finish(*start_together([project, elsewhere], "taken", local_ranks=[0, 0], finished=finished))
    assert (project / "taken.log").read_text(encoding="utf-8").count("taken from there") == 1
    assert results(project / "taken") == results(one)
