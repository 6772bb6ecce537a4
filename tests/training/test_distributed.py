"""Two processes that torchrun starts train the model that one process trains, on two machines and after kills, too."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
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
            transforms={"resize": 48, "crop": 48},
        ),
    ),
    {
        "recipes": {
            # small steps: larger ones amplify rounding (tests/test_reference.py)
            "trial1": {"batch_size": 13, "learning_rate": 0.00003},
            # many quick epochs, in which to kill it
            "trial2": {"batch_size": 13, "learning_rate": 0.001, "freeze": "layer4", "max_epochs": 30, "patience": 30},
        },
    },
)
TWO = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
OUTPUTS = ("model.pt", "history.csv", "run.json")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    training_inputs(root, SMALL, per_class=20, train=15)
    for name in ("faces", "stages"):
        shutil.copytree(name, root / name)
    return root


def start(project: Path, out: str, launcher: list[str], *options: str, run: str = "trial1") -> subprocess.Popen[str]:
    outputs = ["--out", out, "--history", f"{out}/history.csv"]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", *launcher, "stages.train", run),
            *("data", "split/seed1.csv", "--weights", "weights", *outputs, *options),
        ],
        cwd=project,
        env={**os.environ, "FACES_CACHE": str(project / f"cache-{out}"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said[-4000:]
    return said


def train(project: Path, out: str, launcher: list[str], *options: str, run: str = "trial1") -> str:
    return finish(start(project, out, launcher, *options, run=run))


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def test_two_processes_train_the_model_of_one(project: Path) -> None:
    """Batches of 13 and a last one of 4, shared by two: 7 and 6, 2 and 2.

    Without the exchange of gradients, or of the batch norms' statistics, these tolerances are missed by far.
    """
    train(project, "one", [])
    train(project, "two", TWO)
    one, two = (pd.read_csv(project / out / "history.csv") for out in ("one", "two"))
    assert len(one) == len(two) == 3
    for column in ("train_loss", "val_loss"):
        np.testing.assert_allclose(two[column], one[column], rtol=1e-3)
    assert one["train_loss"].iloc[-1] < 0.97 * one["train_loss"].iloc[0]  # something was learned

    states = [torch.load(project / out / "model.pt", weights_only=True) for out in ("one", "two")]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-3, atol=1e-3, msg=lambda m, key=key: f"{key}: {m}")
    start = torch.load(project / "weights/resnet34.pth", weights_only=True)["layer4.2.conv2.weight"]
    step = (states[0]["layer4.2.conv2.weight"] - start).norm()
    apart = (states[1]["layer4.2.conv2.weight"] - states[0]["layer4.2.conv2.weight"]).norm()
    assert apart < 0.1 * step

    facts = [json.loads((project / out / "run.json").read_text(encoding="utf-8")) for out in ("one", "two")]
    assert [run["processes"] for run in facts] == [1, 2]
    assert all(facts[0][key] == facts[1][key] for key in ("recipe", "images", "n_train", "best_epoch"))
    timing = json.loads((project / "two" / "timing.json").read_text(encoding="utf-8"))
    assert timing["images_through_frozen_body"] == 3 * 30 + 10  # no image twice


def test_two_machines_train_the_model_of_two_processes(project: Path, tmp_path: Path) -> None:
    """Each has a folder of its own, and the second one does not get the results."""
    if not (project / "two" / "run.json").exists():
        train(project, "two", TWO)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = ["--master-addr=127.0.0.1", f"--master-port={free.getsockname()[1]}"]
    machines = [tmp_path / "first", tmp_path / "second"]
    for folder in machines:
        shutil.copytree(project, folder, ignore=shutil.ignore_patterns("cache-*", "one", "two"))
    launcher = ["torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *address]
    running = [
        start(folder, "out", [*launcher, f"--node-rank={number}", "-m"]) for number, folder in enumerate(machines)
    ]
    for process in running:
        finish(process)
    assert results(machines[0] / "out") == results(project / "two")
    assert not (machines[1] / "out").exists()


def test_a_killed_process_changes_nothing(project: Path) -> None:
    train(project, "whole", TWO, run="trial2")
    launched = start(project, "killed", TWO, run="trial2")
    history, deadline = project / "killed" / "history.csv", time.monotonic() + 120
    while not (history.exists() and len(history.read_text(encoding="utf-8").splitlines()) > 2):
        assert launched.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = [child for child in psutil.Process(launched.pid).children() if "stages.train" in child.cmdline()]
    assert len(workers) == 2
    workers[1].kill()
    launched.communicate(timeout=120)
    assert launched.returncode != 0
    assert not (project / "killed" / "run.json").exists()
    assert any((project / "cache-killed" / "checkpoints").glob("*.pt"))
    train(project, "killed", TWO, run="trial2")
    assert results(project / "killed") == results(project / "whole")


def test_processes_reuse_a_finished_run(project: Path) -> None:
    if not (project / "one" / "run.json").exists():
        train(project, "one", [])
    finished = project / "finished/trial1"
    finished.parent.mkdir()
    finished.symlink_to(project / "one")
    said = train(project, "reused", TWO, "--finished", "finished")
    assert said.count("taken from there") == 1
    assert (project / "reused" / "model.pt").read_bytes() == (project / "one" / "model.pt").read_bytes()
