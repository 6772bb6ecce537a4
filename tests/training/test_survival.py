"""Training killed at random moments ends with the same bytes as training left alone."""

import hashlib
import random
import shutil
import time
from pathlib import Path

import pytest
import yaml
from forked import finish, start
from pipeline import training_inputs

from ci import demo

KILLS = 20
OUTPUTS = ("out/model.pt", "out/run.json", "out/history.csv")
PARAMS = demo.overlay(
    demo.SAMPLE,
    demo.every_run(freeze="layer4", max_epochs=12, patience=12, transforms={"resize": 32, "crop": 32}),
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    training_inputs(root, PARAMS, per_class=10, train=7)
    return root


def train(project: Path) -> float:
    """Train without a disturbance; return the seconds that it took."""
    started = time.monotonic()
    finish(start(project, "out"))
    return time.monotonic() - started


def digests(project: Path) -> dict[str, str]:
    return {name: hashlib.sha256((project / name).read_bytes()).hexdigest() for name in OUTPUTS}


def forget(project: Path) -> None:
    for name in ("out", "cache-out"):
        shutil.rmtree(project / name, ignore_errors=True)


def test_twenty_kills_change_nothing(project: Path) -> None:
    train(project)  # the first start pays for the imports
    expected = digests(project)
    forget(project)
    seconds = train(project)
    assert digests(project) == expected

    forget(project)
    rng = random.Random(1)
    kills = runs = resumed = 0
    while kills < KILLS or runs == 0:
        resumed += any((project / "cache-out" / "checkpoints").glob("*.pt"))
        process = start(project, "out")
        process.join(timeout=rng.uniform(0, seconds) if kills < KILLS else 120)
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
        else:
            finish(process)
            assert digests(project) == expected
            assert not any((project / "cache-out" / "checkpoints").glob("*.pt"))
            runs += 1
            forget(project)
    assert resumed > 0, "no kill left a checkpoint to go on from"


def test_a_checkpoint_is_not_taken_up_by_another_run(project: Path) -> None:
    forget(project)
    train(project)
    expected = digests(project)
    forget(project)
    process = start(project, "out")
    deadline = time.monotonic() + 60
    while not any((project / "cache-out" / "checkpoints").glob("*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()

    text = (project / "params.yaml").read_text(encoding="utf-8")
    try:  # another seed starts from the beginning, beside the checkpoint
        params = yaml.safe_load(text)
        params["runs"]["trial1"]["seed"] = 2
        (project / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        train(project)
        assert digests(project)["out/model.pt"] != expected["out/model.pt"]
    finally:
        (project / "params.yaml").write_text(text, encoding="utf-8")
    train(project)
    assert digests(project) == expected
