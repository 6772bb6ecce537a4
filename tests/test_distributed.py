"""Two processes that torchrun starts train the model that one process trains."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pipeline import training_inputs

from ci import demo

SMALL = demo.overlay(
    demo.SAMPLE,
    {
        "transforms": {"resize": 48, "crop": 48},
        "fit": {"freeze": "layer3", "max_epochs": 3, "patience": 3, "precision": "fp32", "ema_decay": 0.5},
        # small steps: larger ones amplify rounding (tests/test_reference.py)
        "trials": {"trial1": {"batch_size": 13, "learning_rate": 0.00003}},
    },
)
TWO = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
ARGUMENTS = ["data", "splits.csv", "weights.pth", "facts.json", "trials.trial1"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    training_inputs(root, SMALL, per_class=20, train=15)
    for name in ("faces", "stages"):
        shutil.copytree(name, root / name)
    return root


def train(project: Path, out: str, launcher: list[str], monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    monkeypatch.setenv("FACES_CACHE", str(project / f"cache-{out}"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "stages.train", *ARGUMENTS, out, *options],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_two_processes_train_the_model_of_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 13 and a last one of 4, shared by two: 7 and 6, 2 and 2.

    Without the exchange of gradients, or of the batch norms' statistics, these tolerances are missed by far.
    """
    train(project, "one", [], monkeypatch)
    train(project, "two", TWO, monkeypatch)
    one, two = (pd.read_csv(project / out / "history.csv") for out in ("one", "two"))
    assert len(one) == len(two) == 3
    for column in ("train_loss", "val_loss"):
        np.testing.assert_allclose(two[column], one[column], rtol=1e-3)
    assert one["train_loss"].iloc[-1] < 0.97 * one["train_loss"].iloc[0]  # something was learned

    states = [torch.load(project / out / "model.pt", weights_only=True) for out in ("one", "two")]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-3, atol=1e-3, msg=lambda m, key=key: f"{key}: {m}")
    start = torch.load(project / "weights.pth", weights_only=True)["layer4.2.conv2.weight"]
    step = (states[0]["layer4.2.conv2.weight"] - start).norm()
    apart = (states[1]["layer4.2.conv2.weight"] - states[0]["layer4.2.conv2.weight"]).norm()
    assert apart < 0.1 * step

    facts = [json.loads((project / out / "run.json").read_text(encoding="utf-8")) for out in ("one", "two")]
    assert [run["processes"] for run in facts] == [1, 2]
    assert all(facts[0][key] == facts[1][key] for key in ("recipe", "images", "n_train", "best_epoch"))
    timing = json.loads((project / "two" / "timing.json").read_text(encoding="utf-8"))
    assert timing["images_through_frozen_body"] == 3 * 30 + 10  # no image twice


def test_processes_reuse_a_finished_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (project / "one" / "run.json").exists():
        train(project, "one", [], monkeypatch)
    said = train(project, "reused", TWO, monkeypatch, "--reuse", "one")
    assert said.count("taken from there") == 1
    assert (project / "reused" / "model.pt").read_bytes() == (project / "one" / "model.pt").read_bytes()
