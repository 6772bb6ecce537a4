"""Several seeds summarised from files and from Git revisions."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from faces import seeds
from faces.cli import InputError

VALUES = {"trials.trial1": {1: 0.90, 2: 0.92, 3: 0.91}, "trials.trial2": {1: 0.94, 2: 0.955, 3: 0.95}}


def make_document(run: str, seed: int, value: float, batch_size: int = 32) -> dict[str, Any]:
    return {
        "run": run,
        "source": "sample",
        "n": {"test": 100},
        "metrics": {"accuracy": {"value": value}},
        "training": {"seed": seed, "recipe": {"batch_size": batch_size}},
    }


def write(folder: Path) -> list[str]:
    paths = []
    for run, values in VALUES.items():
        for seed, value in values.items():
            path = folder / f"{run}-{seed}.json"
            path.write_text(json.dumps(make_document(run, seed, value)))
            paths.append(str(path))
    return paths


def test_files_are_summarised_by_run_and_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write(tmp_path)
    seeds.main([*paths, paths[0]])
    page = capsys.readouterr().out
    assert "## Accuracy over seeds (sample)" in page
    row = next(line for line in page.splitlines() if line.startswith("| trials.trial1"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "trials.trial1", "1, 2, 3", "0.9100", "0.0100", "0.9000", "0.9200", "0.8852 to 0.9348"
    ]  # fmt: skip
    # differences -0.04, -0.035, -0.04: mean -0.0383, sd 0.0029, t(2) 4.303
    assert "trials.trial1 minus trials.trial2: -0.0383 (-0.0455 to -0.0312), larger than the noise of 3 seeds" in page
    assert max(map(len, page.splitlines())) <= 120


def test_differences_pair_the_shared_seeds() -> None:
    found = seeds.differences({"a": {1: 0.9, 2: 0.8, 5: 0.1}, "b": {2: 0.9, 1: 0.8, 7: 0.2}, "c": {9: 0.5}}, 0.95)
    assert list(found) == [("a", "b")]
    assert (found["a", "b"]["n"], found["a", "b"]["mean"]) == (2, pytest.approx(0))


def test_one_seed_has_no_noise_to_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write(tmp_path)
    seeds.main([paths[0], paths[3]])
    assert "with one seed; the noise of seeds takes two or more" in capsys.readouterr().out


def test_revisions_are_read_from_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "-q", "."], check=True)
    (tmp_path / "metrics" / "trials").mkdir(parents=True)
    for seed in (1, 2):
        document = make_document("trials.trial1", seed, 0.9 + seed / 100)
        (tmp_path / "metrics" / "trials" / "trial1.json").write_text(json.dumps(document))
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "--no-verify", "-m", str(seed)], check=True)
    documents = [document for name in ("HEAD~1", "HEAD") for document in seeds.read_runs(name)]
    assert seeds.by_seed(documents, "accuracy") == {"trials.trial1": {1: 0.91, 2: 0.92}}
    for name in ("nowhere", "--help"):
        with pytest.raises(InputError, match=f"{name} is neither a file nor a Git revision"):
            seeds.read_runs(name)


@pytest.mark.parametrize(
    ("documents", "metric", "message"),
    [
        ([make_document("a", 1, 0.9), make_document("a", 2, 0.9, batch_size=64)], "accuracy", "other hyperparameters"),
        ([make_document("a", 1, 0.9), make_document("a", 1, 0.8)], "accuracy", "two results with seed 1"),
        ([make_document("a", 1, 0.9), make_document("b", 1, 0.9) | {"source": "kaggle"}], "accuracy", "other data"),
        ([make_document("a", 1, 0.9)], "speed", "no metric named 'speed'"),
    ],
)
def test_runs_that_differ_in_more_than_the_seed(documents: list[dict[str, Any]], metric: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        seeds.by_seed(documents, metric)
