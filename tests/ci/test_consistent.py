"""Results beside the committed ones: of the same machine, of another one, of other inputs, and broken."""

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from revisions import EPYC, XEON, commit, of_matrix, scores, write, write_spread

from ci import consistent

Change = Callable[[Path], None]


def run(revision: str = "HEAD") -> tuple[int, list[str]]:
    """Return the exit status and what is printed."""
    said = io.StringIO()
    with redirect_stdout(said), pytest.raises(SystemExit) as end:
        consistent.main(revision)
    return end.value.code, said.getvalue().splitlines()  # type: ignore[return-value]


def sheet(root: Path, distance: float = 0.0294, threshold: float = 0.0296, other: str = "b") -> None:
    pair = {"a": "healthy/a.jpg", "b": f"healthy/{other}.jpg", "feature_distance": distance}
    groups = {"healthy/a.jpg": {"images": [], "pairs": [pair]}}
    found = {"thresholds": {"hash_distance": 4, "feature_distance": threshold}, "by_group": groups}
    (root / "metrics/data.json").write_text(json.dumps({"duplicates": found}))


@pytest.fixture
def results(project: Path) -> Path:
    """Return a project whose committed results know their machine, features and noise."""
    write(project, of_matrix(145, 5, 20, 130, "one"), machine=EPYC, model_sha256="aa")
    sheet(project)
    write_spread(project, accuracy=0.01, recall=0.03, specificity=0.03, f1=0.01, auroc=0.01, brier=0.01)
    commit(project)
    return project


def test_the_same_bytes(results: Path) -> None:
    status, said = run()
    assert (status, said) == (
        0,
        [
            "consistent with the committed results: the same split; the same duplicates (pairs: 1), "
            "their distances within 0.0001; the same bytes: trial1"
        ],
    )


def rerun(root: Path, tn: int, fp: int, fn: int, tp: int, machine: dict[str, Any] | None = XEON, **more: Any) -> None:
    """Write another run's results for the same images."""
    write(root, of_matrix(tn, fp, fn, tp, "one"), machine=machine, **{"model_sha256": "bb", **more})


def test_another_machine_like_another_seed(results: Path) -> None:
    rerun(results, 144, 6, 19, 131)
    sheet(results, distance=0.0295)  # the last digit
    status, said = run()
    assert status == 0
    assert said[0].startswith("made on another machine: processor: AMD EPYC")
    assert said[-1].startswith("consistent with the committed results: the same split; ")
    assert "differ as runs do: trial1 (smallest p = " in said[-1]


def other_images(root: Path) -> None:
    write(root, of_matrix(145, 5, 20, 130, "other"), machine=XEON, model_sha256="bb")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda root: rerun(root, 120, 30, 60, 90), "trial1: accuracy 0.7000 instead of 0.9167 (n = 300, p = "),
        (lambda root: rerun(root, 150, 0, 0, 150), "trial1: accuracy 1.0000 instead of 0.9167 (n = 300, p = "),
        (
            lambda root: rerun(root, 145, 5, 20, 130, EPYC),
            "trial1 has other bytes, though machine, threads and versions",
        ),
        (other_images, "the subsets hold other images in trial1"),
        (lambda root: sheet(root, other="c"), "2 pairs are near duplicates in one of the two only"),
        (lambda root: sheet(root, distance=0.0292), "feature distances of near duplicates differ by up to 0.0002"),
        (lambda root: (root / "metrics/runs/trial1.json").unlink(), "trial1 is missing"),
    ],
)
def test_what_is_not_consistent_is_named(results: Path, change: Change, says: str) -> None:
    change(results)
    status, said = run()
    assert status == 1
    assert said[-1].startswith("not consistent with the committed results: ")
    assert says in said[-1]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"source": "own"}, "other images (own instead of kaggle): trial1"),
        ({"weights": {"sha256": "b627a593ff"}}, "other pretrained weights (b627a593 instead of 0ca4ef56): trial1"),
        ({"training": {"recipe": {"batch_size": 64}, "split": "seed1", "seed": 1}}, "another recipe: trial1"),
        ({"training": {"recipe": {"batch_size": 32}, "split": "seed2", "seed": 1}}, "another split: trial1"),
        ({"training": {"recipe": {"batch_size": 32}, "split": "seed1", "seed": 2}}, "another seed: trial1"),
    ],
)
def test_other_inputs_are_not_judged(results: Path, more: dict[str, Any], says: str) -> None:
    rerun(results, 75, 75, 75, 75, **more)
    status, said = run()
    assert (status, said) == (2, [f"not compared with the committed results: {says}"])


def test_other_inputs_of_one_run_are_named_beside_the_others_verdict(results: Path) -> None:
    write(results, scores(), run="trial2")
    commit(results)
    write(results, scores(wrong=90), run="trial2", weights={"sha256": "b627a593ff"})
    status, said = run()
    assert status == 0
    assert said[-1].endswith("the same bytes: trial1; other pretrained weights (b627a593 instead of 0ca4ef56): trial2")


def test_fp32_in_place_of_bf16_is_the_machines_doing(results: Path) -> None:
    training = {"recipe": {"batch_size": 32, "precision": "bf16"}, "split": "seed1", "seed": 1, "machine": EPYC}
    rerun(results, 145, 5, 20, 130, training=training)
    commit(results)
    training = {**training, "recipe": {"batch_size": 32, "precision": "fp32"}, "machine": XEON}
    rerun(results, 144, 6, 19, 131, training=training, model_sha256="cc")
    assert run()[0] == 0


def test_without_measured_noise_chance_over_the_images_decides(results: Path) -> None:
    (results / "metrics/seeds.json").unlink()
    commit(results)
    rerun(results, 144, 6, 19, 131)
    status, said = run()
    assert status == 0
    assert "differ as chance over the test images explains: trial1" in said[-1]


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda root: (root / "metrics/runs/trial1.json").write_text("{"), "metrics/runs/trial1.json in the working"),
        (lambda root: (root / "predictions/runs/trial1.csv").unlink(), "the predictions of trial1 are missing"),
        (
            lambda root: (root / "metrics/data.json").write_text("[]"),
            "metrics/data.json in the working tree is not the",
        ),
        (lambda root: (root / "metrics/data.json").unlink(), "metrics/data.json is missing in the working tree"),
    ],
)
def test_broken_results_are_one_line(results: Path, harm: Change, says: str) -> None:
    harm(results)
    status, said = run()
    assert status == 2
    assert len(said) == 1
    assert said[0].startswith("not compared with the committed results: ")
    assert says in said[0]


def test_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    status, said = run()
    assert status == 2
    assert "not a Git repository" in said[0]
