"""The gate on small Git repositories: what passes, what is a regression, and what cannot be compared."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ci import gate
from faces.evidence.metrics import point_values
from faces.params import load_params

REPOSITORY = Path(__file__).parents[2]
N = 200  # test images
Change = Callable[[Path], None]


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True, timeout=30
    )
    return done.stdout


def scores(wrong: int = 20, where: int = 0, n: int = N) -> pd.DataFrame:
    """Return predictions whose test images are all right but `wrong` ones, from image `where` on."""
    tables = []
    for subset, size in (("test", n), ("validation", 20)):
        y_true = np.arange(size) % 2
        confidence = np.random.default_rng(0).uniform(0.55, 0.95, size).round(6)
        if subset == "test":
            confidence[where : where + wrong] = 1 - confidence[where : where + wrong]
        y_score = np.where(y_true == 1, confidence, 1 - confidence).round(6)
        paths = [f"{subset}/{i:03}.jpg" for i in range(size)]
        tables.append(pd.DataFrame({"path": paths, "subset": subset, "y_true": y_true, "y_score": y_score}))
    return pd.concat(tables, ignore_index=True)


def write(
    root: Path, predictions: pd.DataFrame, run: str = "trial1", paired: bool = True, source: str = "kaggle"
) -> None:
    """Write a run's metrics, and with `paired` its predictions."""
    test = predictions[predictions["subset"] == "test"]
    values = point_values(test["y_true"].to_numpy(), test["y_score"].to_numpy())
    document = {"source": source, "metrics": {k: {"value": round(v, 6)} for k, v in values.items()}}
    path = root / ("metrics/active.json" if run == "active" else f"metrics/trials/{run}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    (root / "predictions").mkdir(exist_ok=True)
    if paired:
        predictions.to_csv(root / f"predictions/{run}.csv", index=False)


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "metrics")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "a project"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch", "main")
    (root / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    write(root, scores())
    commit(root)
    monkeypatch.chdir(root)
    return root


def run(base: str = "HEAD") -> tuple[int, dict[str, Any], str]:
    """Return the gate's exit status, its JSON and its Markdown."""
    with pytest.raises(SystemExit) as exit_:
        gate.main(base, Path("out/gate.json"), Path("out/gate.md"))
    result = json.loads(Path("out/gate.json").read_text())
    assert exit_.value.code == result["status"]
    return result["status"], result, Path("out/gate.md").read_text()


def verdicts(result: dict[str, Any]) -> dict[str, str]:
    return {row["metric"]: row["verdict"] for row in result["rows"]}


def test_unchanged_metrics_pass(project: Path) -> None:
    status, result, text = run()
    assert status == 0
    assert set(verdicts(result).values()) == {"same"}
    assert list(verdicts(result)) == list(load_params().gate.tolerances)
    assert "nothing is worse" in text


def test_improvement_is_reported(project: Path) -> None:
    write(project, scores(wrong=5))
    status, result, text = run()
    assert status == 0
    assert verdicts(result)["accuracy"] == "improved"
    assert verdicts(result)["brier"] == "improved"  # lower is better
    assert "| trial1 | accuracy | 0.9000 | 0.9750 | +0.0750 |  | improved |" in text


def test_real_drop_is_a_regression(project: Path) -> None:
    write(project, scores(wrong=40))
    status, result, text = run()
    assert status == 1
    assert verdicts(result)["accuracy"] == "regression"
    assert "**regression**" in text


def test_real_drop_within_the_tolerance_is_a_regression(project: Path) -> None:
    """Six thousandths of the images lost and none won back: little, but no chance."""
    write(project, scores(wrong=0, n=4000))
    commit(project)
    write(project, scores(wrong=24, n=4000))
    status, result, _ = run()
    row = next(row for row in result["rows"] if row["metric"] == "accuracy")
    assert -row["change"] < load_params().gate.tolerances["accuracy"]
    assert (status, row["verdict"]) == (1, "regression")


def test_drop_beyond_the_tolerance_that_chance_explains_is_noise(project: Path) -> None:
    write(project, scores(wrong=24, where=10))  # 10 images won, 14 lost
    status, result, text = run()
    row = next(row for row in result["rows"] if row["metric"] == "accuracy")
    assert -row["change"] > load_params().gate.tolerances["accuracy"]
    assert (status, row["verdict"]) == (0, "noise")
    assert row["p"] > 0.05
    assert "within noise" in text


@pytest.mark.parametrize(("wrong", "expected"), [(21, "within"), (26, "regression")])
def test_without_predictions_the_tolerance_decides(project: Path, wrong: int, expected: str) -> None:
    (project / "predictions/trial1.csv").unlink()
    commit(project)
    write(project, scores(wrong=wrong), paired=False)
    status, result, _ = run()
    assert status == (expected == "regression")
    assert verdicts(result)["accuracy"] == expected
    assert all(row["p"] is None for row in result["rows"])


def test_other_test_images_are_not_paired(project: Path) -> None:
    write(project, scores(wrong=23, n=N + 2))
    status, result, _ = run()
    assert (status, verdicts(result)["accuracy"]) == (1, "regression")
    assert all(row["p"] is None for row in result["rows"])


def test_many_small_chances_are_corrected_for(project: Path) -> None:
    """Ten runs, of which one drops with p = 0.03: Holm's correction leaves no regression."""
    for index in range(10):
        write(project, scores(wrong=0), run=f"trial{index}")
    commit(project)
    for index in range(10):
        write(project, scores(wrong=6 if index == 0 else 1), run=f"trial{index}")
    status, result, _ = run()
    p = next(row["p"] for row in result["rows"] if row["run"] == "trial0" and row["metric"] == "accuracy")
    assert gate.statistics.mcnemar(6, 0) < 0.05 < p
    assert status == 0


def corrupt(root: Path) -> None:
    (root / "metrics/trials/trial1.json").write_text('{"metrics": ')


def not_text(root: Path) -> None:
    (root / "metrics/trials/trial1.json").write_bytes(b"\xff\xfe")


def missing(root: Path) -> None:
    (root / "metrics/trials/trial1.json").unlink()


def no_metric(root: Path) -> None:
    path = root / "metrics/trials/trial1.json"
    document = json.loads(path.read_text())
    del document["metrics"]["auroc"]
    path.write_text(json.dumps(document))


def null(root: Path) -> None:
    path = root / "metrics/trials/trial1.json"
    document = json.loads(path.read_text())
    document["metrics"]["auroc"]["value"] = None
    path.write_text(json.dumps(document))


def not_a_number(root: Path) -> None:
    path = root / "metrics/trials/trial1.json"
    document = json.loads(path.read_text())
    document["metrics"]["auroc"]["value"] = float("nan")
    path.write_text(json.dumps(document))


def infinite(root: Path) -> None:
    path = root / "metrics/trials/trial1.json"
    path.write_text(path.read_text().replace('"auroc": {"value": ', '"auroc": {"value": 1e999, "was": '))


def a_list(root: Path) -> None:
    (root / "metrics/trials/trial1.json").write_text("[]")


def other_predictions(root: Path) -> None:
    scores(wrong=30).to_csv(root / "predictions/trial1.csv", index=False)


def no_predictions(root: Path) -> None:
    (root / "predictions/trial1.csv").unlink()


def broken_predictions(root: Path) -> None:
    (root / "predictions/trial1.csv").write_text("path,subset,y_true,y_score\na,test,2,0.5\n")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (corrupt, "metrics/trials/trial1.json in the working tree: Expecting value"),
        (not_text, "metrics/trials/trial1.json in the working tree"),
        (missing, "metrics/trials/trial1.json is missing"),
        (no_metric, "has no metric 'auroc'"),
        (null, "has no metric 'auroc'"),
        (not_a_number, "NaN is not a finite number"),
        (infinite, "1e999 is not a finite number"),
        (a_list, "has no metric 'accuracy'"),
        (other_predictions, "accuracy does not follow from predictions/trial1.csv"),
        (no_predictions, "predictions/trial1.csv is missing"),
        (broken_predictions, "y_true of a is 2"),
    ],
)
def test_broken_files_fail(project: Path, harm: Change, says: str) -> None:
    harm(project)
    status, result, text = run()
    assert status == 1
    assert any(says in problem for problem in result["problems"]), result["problems"]
    assert says in text


@pytest.mark.parametrize("harm", [corrupt, not_a_number, broken_predictions])
def test_broken_base_cannot_be_compared(project: Path, harm: Change) -> None:
    harm(project)
    commit(project)
    write(project, scores())
    status, result, _ = run()
    assert status == 2
    assert "in HEAD" in result["problems"][0]


def test_other_metrics_files_must_stay_and_be_finite(project: Path) -> None:
    (project / "metrics/data.json").write_text('{"images": 3}')
    (project / "metrics/split.json").write_text("{}")
    commit(project)
    (project / "metrics/data.json").write_text('{"images": -Infinity}')
    (project / "metrics/split.json").unlink()
    status, result, _ = run()
    assert status == 1
    assert ["data.json" in result["problems"][0], "split.json is missing" in result["problems"][1]] == [True, True]


def test_a_new_run_is_welcome_and_an_old_one_is_missed(project: Path) -> None:
    write(project, scores(wrong=90), run="trial9")
    status, result, _ = run()
    assert status == 0
    assert {row["verdict"] for row in result["rows"] if row["run"] == "trial9"} == {"new"}
    commit(project)
    (project / "metrics/trials/trial9.json").unlink()
    assert run()[0] == 1


def test_another_source_cannot_be_compared(project: Path) -> None:
    write(project, scores(), source="sample")
    status, result, _ = run()
    assert status == 2
    assert "'kaggle' in HEAD and are 'sample' now" in result["problems"][0]


def test_a_base_without_metrics_cannot_be_compared(project: Path) -> None:
    (project / "metrics/trials/trial1.json").unlink()
    commit(project)
    write(project, scores())
    status, result, _ = run()
    assert status == 2
    assert "HEAD has no metrics/trials" in result["problems"][0]


@pytest.mark.parametrize("base", ["main~7", "no-such-branch", "--help", "HEAD:params.yaml"])
def test_an_unknown_base_cannot_be_compared(project: Path, base: str) -> None:
    status, result, _ = run(base)
    assert status == 2
    assert "cannot see the revision" in result["problems"][0]


def test_a_shallow_clone_cannot_see_the_base(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(project, scores(wrong=40))
    commit(project)
    git(tmp_path, "clone", "--quiet", "--depth", "1", project.as_uri(), "clone")
    monkeypatch.chdir(tmp_path / "clone")
    for base in ("HEAD~1", "origin/main"):  # the second is the very commit that is checked out
        status, result, _ = run(base)
        assert status == 2
        assert "git fetch --unshallow" in result["problems"][0]
    git(tmp_path / "clone", "fetch", "--quiet", "--unshallow")
    assert run("HEAD~1")[0] == 1


def test_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    status, result, _ = run()
    assert status == 2
    assert "not a Git repository" in result["problems"][0]


def test_command_line(project: Path) -> None:
    write(project, scores(wrong=40))
    done = subprocess.run(
        [sys.executable, "-m", "ci.gate", "main", "--json", "gate.json"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert "### Metrics against `main`" in done.stdout
    assert json.loads((project / "gate.json").read_text())["status"] == 1


@pytest.mark.parametrize("name", sorted(gate.SCORERS))
def test_scorers_are_the_metrics_own(name: str) -> None:
    rng = np.random.default_rng(1)
    y_true, y_score = rng.integers(0, 2, 60), rng.random(60).round(2)
    expected = [point_values(y_true, score)[name] for score in (y_score, 1 - y_score)]
    assert gate.SCORERS[name](y_true, np.stack([y_score, 1 - y_score])) == pytest.approx(expected)


def test_permutation_test_agrees_with_mcnemar_where_both_apply() -> None:
    """Ten images, six lost: few enough for every permutation to be counted, two in 2**6 as large as this one."""
    y_true = np.ones(10, np.int64)
    before = np.full(10, 0.9)
    now = np.where(np.arange(10) < 6, 0.1, 0.9)
    assert gate.p_value("recall", (y_true, before, now), 5000) == pytest.approx(2 * 0.5**6)
    assert gate.p_value("f1", (y_true, before, now), 5000) == pytest.approx(2 * 0.5**6)
