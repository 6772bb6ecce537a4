"""Mistakes planted in a copy of the code: a unit test or the gate must catch each, without data or GPU.

Broken augmentation and swapped labels change what a model learns: two small trainings on drawn faces and the gate
between them show it. A dropped normalisation and an unfrozen batch norm can train as well as before, so it is the
unit tests that must know them.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from pipeline import no_landmarks
from revisions import write_spread

from ci.changes import METRICS
from ci.demo import SAMPLE, overlay
from faces.source.listing import list_classes
from faces.source.sample import draw

REPOSITORY = Path(__file__).parents[1]
PER_CLASS = 80
CHANGES = {
    "train": {
        **{"batch_size": 8, "learning_rate": 0.0003, "freeze": "layer3", "max_epochs": 5},
        "transforms": {"resize": 48, "crop": 56},
    }
}
RUN = """
from pathlib import Path
from stages import evaluate, train, weights
body, model, split = Path("weights"), Path("models/active"), Path("split/seed1.csv")
if not body.exists():
    weights.main(body / "resnet34.pth", body / "facts.json")
landmarks = Path("embed/landmarks.csv")
train.main("active", Path("data"), split, weights=body, landmarks=landmarks, detector=body / "faces", out=model,
           history=Path("plots/active/history.csv"))
evaluate.main("active", Path("data"), split, landmarks=landmarks, model=model,
              predictions=Path("predictions/active.csv"), metrics=Path("metrics/active.json"),
              curves=Path("plots/active/curves"))
"""
AUGMENTATION = (
    "faces/training/transforms.py",
    "np.stack([left, upper, left + width, upper + height], axis=1), flips",
    "np.stack([left, upper, left + 1, upper + 1], axis=1), flips",
)
LABELS = (
    "faces/training/features.py",
    'rows["y_true"].to_numpy(dtype=np.int64, copy=True)',
    '1 - rows["y_true"].to_numpy()',
)
BATCH_NORM = (
    "faces/training/model.py",
    "fuse_conv_bn_eval(block.conv2, block.bn2)",
    "nn.Sequential(block.conv2, block.bn2.train())",
)
NORMALISATION = (
    "faces/training/transforms.py",
    "rows = (rows * scale.repeat(width)).add_(shift.repeat(width))",
    "rows = rows / 255",
)


def run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(root), "FACES_CACHE": str(root / ".cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=900)


def plant(root: Path, file: str, right: str, wrong: str) -> None:
    text = (root / file).read_text()
    assert text.count(right) == 1, f"{file} no longer has the line {right!r}: plant the mistake where it is now"
    (root / file).write_text(text.replace(right, wrong))


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """Return a copy of the code, in a Git repository of its own."""
    for folder in ("faces", "stages", "tests", "ci"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("params.yaml", "pyproject.toml"):
        shutil.copy(REPOSITORY / file, tmp_path / file)
    return tmp_path


def test_unit_tests_catch(code: Path) -> None:
    """The three mistakes lie in three functions; each must fail the test of its own."""
    for mistake in (AUGMENTATION, NORMALISATION, BATCH_NORM):
        plant(code, *mistake)
    tests = [
        "tests/training/test_transforms.py::test_boxes_follow_torchvisions_distribution",
        "tests/training/test_transforms.py::test_normalise_in_any_memory_order",
        "tests/training/test_model.py::test_body_and_tail_make_the_whole_network",
    ]
    done = run(code, sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 1, done.stdout  # 1: tests ran and failed; anything else is another fault
    for test in tests:
        assert f"FAILED {test}" in done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the code with a model trained on drawn faces, its metrics committed."""
    root = tmp_path_factory.mktemp("trained")
    for folder in ("faces", "stages", "ci"):
        shutil.copytree(REPOSITORY / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    params = overlay(overlay(yaml.safe_load((REPOSITORY / "params.yaml").read_text()), SAMPLE), CHANGES)
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    (root / ".gitignore").write_text("data\nembed\nmodels\nweights\n.cache\n")
    draw(root / "data", PER_CLASS)
    paths = [path for path in list_classes(root / "data").images if path != f"healthy/healty_{PER_CLASS + 1}.jpg"]
    table = pd.DataFrame({"path": paths, "y_true": [int(path.startswith("down")) for path in paths]})
    table["subset"] = [("train", "train", "test", "train", "test", "validation")[i % 6] for i in range(len(paths))]
    (root / "split").mkdir()
    no_landmarks(root)
    table.to_csv(root / "split/seed1.csv", index=False)
    train(root)
    write_spread(root, **dict.fromkeys(METRICS, 0.03))  # runs differ by about this on the real images
    commit = ["-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "--message", "trained"]
    for arguments in (["init", "--quiet"], ["add", "--all"], commit):
        assert run(root, "git", *arguments).returncode == 0
    return root


def train(root: Path) -> None:
    done = run(root, sys.executable, "-c", RUN)
    assert done.returncode == 0, done.stdout + done.stderr


def gate(root: Path) -> subprocess.CompletedProcess[str]:
    return run(root, sys.executable, "-m", "ci.gate", "HEAD")


@pytest.mark.parametrize("mistake", [None, LABELS, AUGMENTATION], ids=["none", "labels", "augmentation"])
def test_the_gate_catches(trained: Path, mistake: tuple[str, str, str] | None) -> None:
    if mistake is not None:
        plant(trained, *mistake)
    try:
        train(trained)
        done = gate(trained)
    finally:
        run(trained, "git", "checkout", "--quiet", ".")
    assert done.returncode == (0 if mistake is None else 1), done.stdout + done.stderr
    assert "| active | accuracy |" in done.stdout
    assert ("**regression**" in done.stdout) == (mistake is not None)
