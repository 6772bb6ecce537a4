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
import yaml

from ci import changes, gate
from faces.evidence import metrics
from faces.evidence.metrics import point_values
from faces.evidence.statistics import mcnemar, wilson

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
    root: Path,
    predictions: pd.DataFrame,
    run: str = "trial1",
    paired: bool = True,
    source: str = "kaggle",
    machine: dict[str, Any] | None = None,
) -> None:
    """Write a run's metrics, and with `paired` its predictions."""
    y_true, y_score = metrics.subset(predictions, "test")
    document = {
        "source": source,
        "settings": {"confidence": 0.95},
        "metrics": {name: interval(name, value, y_true) for name, value in point_values(y_true, y_score).items()},
        "training": {"machine": machine},
    }
    folder = "" if run == "active" else "runs/"
    for path, text in (
        (root / f"metrics/{folder}{run}.json", json.dumps(document)),
        (root / f"predictions/{folder}{run}.csv", predictions.to_csv(index=False)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        if paired or path.suffix == ".json":
            path.write_text(text)


def interval(name: str, value: float, y_true: np.ndarray) -> dict[str, float | int]:
    """Return a metric with its interval: Wilson's of a share of right answers, a made-up one of another metric."""
    n = int(np.isin(y_true, changes.SHARES.get(name, (0, 1))).sum())
    low, high = (
        wilson(round(value * n), n, 0.95) if name in changes.SHARES else (max(0, value - 0.04), min(1, value + 0.04))
    )
    return {"value": round(value, 6), "low": round(low, 6), "high": round(high, 6), "n": n}


def write_spread(root: Path, recipe: str = "trial1", **sd: float) -> None:
    """Write how much runs of a recipe differ, from five of them."""
    summary = {metric: {"mean": 0.9, "sd": value, "min": 0.8, "max": 1.0, "n": 5} for metric, value in sd.items()}
    (root / "metrics").mkdir(exist_ok=True)
    (root / "metrics/seeds.json").write_text(json.dumps({"recipes": {recipe: summary}}))


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "--message", "metrics")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "a project"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch", "main")
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["gate"]["permutations"] = 1000
    (root / "params.yaml").write_text(yaml.safe_dump(params))
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
    assert list(verdicts(result)) == list(changes.METRICS)
    assert "nothing is worse" in text


def test_improvement_is_reported(project: Path) -> None:
    write(project, scores(wrong=5))
    status, result, text = run()
    assert status == 0
    assert verdicts(result)["accuracy"] == "improved"
    assert verdicts(result)["brier"] == "improved"  # lower is better
    assert f"| trial1 | accuracy | 200 | 0.9000 | 0.9750 | +0.0750 | the same | {6 * 0.5**14:.3g} | improved |" in text


def test_real_drop_is_a_regression(project: Path) -> None:
    write(project, scores(wrong=40))
    status, result, text = run()
    assert status == 1
    assert verdicts(result)["accuracy"] == "regression"
    assert "**regression**" in text


def test_small_drop_that_chance_does_not_explain_is_a_regression(project: Path) -> None:
    """Six thousandths of the images lost and none won back."""
    write(project, scores(wrong=0, n=4000))
    commit(project)
    write(project, scores(wrong=24, n=4000))
    status, result, _ = run()
    assert (status, verdicts(result)["accuracy"]) == (1, "regression")


def test_large_drop_that_chance_explains_is_noise(project: Path) -> None:
    write(project, scores(wrong=24, where=10))  # 10 images won, 14 lost
    status, result, text = run()
    row = next(row for row in result["rows"] if row["metric"] == "accuracy")
    assert row["change"] == -0.02
    assert (status, row["verdict"]) == (0, "noise")
    assert row["p"] > 0.05
    assert "within noise" in text


@pytest.mark.parametrize(("sd", "expected"), [(0.003, "regression"), (0.03, "noise")])
def test_a_drop_must_also_exceed_the_noise_between_runs(project: Path, sd: float, expected: str) -> None:
    """20 more of 200 images are wrong and none is won: too many for chance over images, not for runs that differ."""
    write_spread(project, accuracy=sd, recall=0.03, specificity=0.03, f1=0.03, auroc=0.3, brier=0.3)
    commit(project)
    write(project, scores(wrong=40))
    status, result, _ = run()
    row = next(row for row in result["rows"] if row["metric"] == "accuracy")
    assert (row["change"], row["paired"], row["verdict"]) == (-0.1, True, expected)
    assert status == (expected == "regression")


def test_the_noise_is_the_bases_own_and_of_an_unmeasured_recipe_the_largest(project: Path) -> None:
    base = {"a": {"accuracy": changes.Spread(0.01, 5)}, "b": {"accuracy": changes.Spread(0.02, 5)}}
    now = {"a": {"accuracy": changes.Spread(0.5, 5)}, "c": {"accuracy": changes.Spread(0.5, 5)}}
    assert changes.between_runs([base, now], "a") == base["a"]
    assert changes.between_runs([base, now], "c") == now["c"]
    assert changes.between_runs([base, now], "d") == base["b"]
    assert changes.between_runs([], "a") == {}


@pytest.mark.parametrize(("wrong", "expected"), [(22, "noise"), (34, "noise"), (50, "regression")])
def test_without_common_test_images_an_interval_of_the_difference_decides(
    project: Path, wrong: int, expected: str
) -> None:
    write(project, scores(wrong=wrong, n=N + 2))
    status, result, text = run()
    row = next(row for row in result["rows"] if row["metric"] == "accuracy")
    assert (status, row["verdict"], row["paired"]) == (expected == "regression", expected, False)
    assert "| others |" in text


def test_without_predictions_an_interval_of_the_difference_decides(project: Path) -> None:
    (project / "predictions/runs/trial1.csv").unlink()
    commit(project)
    for wrong, expected in ((24, "noise"), (60, "regression")):
        write(project, scores(wrong=wrong), paired=False)
        status, result, _ = run()
        assert (status, verdicts(result)["accuracy"]) == (expected == "regression", expected)


def test_noise_between_runs_widens_the_interval_of_the_difference(project: Path) -> None:
    write_spread(project, accuracy=0.05, recall=0.05, specificity=0.05, f1=0.05, auroc=0.05, brier=0.05)
    commit(project)
    write(project, scores(wrong=50, n=N + 2))
    assert run()[0] == 0


def of_matrix(tn: int, fp: int, fn: int, tp: int, folder: str) -> pd.DataFrame:
    """Return predictions with this confusion matrix on the test images, which lie in `folder`."""
    y_true = np.repeat([0, 0, 1, 1], [tn, fp, fn, tp])
    y_pred = np.repeat([0, 1, 0, 1], [tn, fp, fn, tp])
    confidence = np.random.default_rng(sum(map(ord, folder))).uniform(0.55, 1, len(y_true))
    test = pd.DataFrame({"path": [f"{folder}/{i:03}.jpg" for i in range(len(y_true))], "subset": "test"})
    test["y_true"], test["y_score"] = y_true, np.where(y_pred == 1, confidence, 1 - confidence).round(6)
    validation = scores()
    return pd.concat([test, validation[validation["subset"] == "validation"]], ignore_index=True)


EPYC = {"processor": "AMD EPYC (family 26, model 2)", "isa": {"onednn": "AVX512_CORE_BF16"}, "threads": 2}
XEON = {"processor": "Intel Xeon (family 6, model 143)", "isa": {"onednn": "AVX512_CORE_AMX"}, "threads": 2}


@pytest.mark.parametrize("spread", [False, True])
def test_a_rerun_on_another_processor_is_no_regression(project: Path, spread: bool) -> None:
    """Figures of a real rerun: another split, 275 and 271 of 300 right, specificity 7.3 points lower."""
    write(project, of_matrix(145, 5, 20, 130, "one"), machine=EPYC)
    if spread:
        write_spread(project, accuracy=0.008, recall=0.03, specificity=0.03)
    commit(project)
    write(project, of_matrix(134, 16, 13, 137, "other"), machine=XEON)
    status, result, text = run()
    assert (status, result["problems"]) == (0, [])
    rows = {row["metric"]: row for row in result["rows"]}
    assert [round(rows[name]["change"], 3) for name in ("accuracy", "recall", "specificity")] == [-0.013, 0.047, -0.073]
    assert set(verdicts(result).values()) == {"noise"}
    assert result["notes"] == [
        "made on other hardware than in HEAD: trial1 (processor: AMD EPYC (family 26, model 2), now Intel Xeon "
        "(family 6, model 143); isa.onednn: AVX512_CORE_BF16, now AVX512_CORE_AMX)"
    ]
    assert result["notes"][0] in text


def test_a_worse_model_on_another_processor_is_a_regression(project: Path) -> None:
    write(project, of_matrix(145, 5, 20, 130, "one"), machine=EPYC)
    write_spread(project, accuracy=0.008, recall=0.03, specificity=0.03, f1=0.01, auroc=0.01, brier=0.01)
    commit(project)
    write(project, of_matrix(120, 30, 40, 110, "other"), machine=XEON)
    status, result, _ = run()
    assert (status, verdicts(result)["accuracy"]) == (1, "regression")


def test_a_machine_that_is_not_recorded_is_said(project: Path) -> None:
    write(project, scores(), machine=EPYC)
    assert run()[1]["notes"] == [
        "made on other hardware than in HEAD: trial1 (the base does not say what it was made on)"
    ]


def test_many_small_chances_are_corrected_for(project: Path) -> None:
    """Ten runs, of which one drops with p = 0.03: Holm's correction leaves no regression."""
    for index in range(10):
        write(project, scores(wrong=0), run=f"trial{index}")
    commit(project)
    for index in range(10):
        write(project, scores(wrong=6 if index == 0 else 1), run=f"trial{index}")
    status, result, _ = run()
    p = next(row["p"] for row in result["rows"] if row["run"] == "trial0" and row["metric"] == "accuracy")
    assert mcnemar(6, 0) < 0.05 < p
    assert status == 0


def corrupt(root: Path) -> None:
    (root / "metrics/runs/trial1.json").write_text('{"metrics": ')


def not_text(root: Path) -> None:
    (root / "metrics/runs/trial1.json").write_bytes(b"\xff\xfe")


def missing(root: Path) -> None:
    (root / "metrics/runs/trial1.json").unlink()


def no_metric(root: Path) -> None:
    path = root / "metrics/runs/trial1.json"
    document = json.loads(path.read_text())
    del document["metrics"]["auroc"]
    path.write_text(json.dumps(document))


def null(root: Path) -> None:
    path = root / "metrics/runs/trial1.json"
    document = json.loads(path.read_text())
    document["metrics"]["auroc"]["value"] = None
    path.write_text(json.dumps(document))


def not_a_number(root: Path) -> None:
    path = root / "metrics/runs/trial1.json"
    document = json.loads(path.read_text())
    document["metrics"]["auroc"]["value"] = float("nan")
    path.write_text(json.dumps(document))


def infinite(root: Path) -> None:
    path = root / "metrics/runs/trial1.json"
    path.write_text(path.read_text().replace('"auroc": {"value": ', '"auroc": {"value": 1e999, "was": '))


def a_list(root: Path) -> None:
    (root / "metrics/runs/trial1.json").write_text("[]")


def other_predictions(root: Path) -> None:
    scores(wrong=30).to_csv(root / "predictions/runs/trial1.csv", index=False)


def no_predictions(root: Path) -> None:
    (root / "predictions/runs/trial1.csv").unlink()


def broken_predictions(root: Path) -> None:
    (root / "predictions/runs/trial1.csv").write_text("path,subset,y_true,y_score\na,test,2,0.5\n")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (corrupt, "metrics/runs/trial1.json in the working tree: Expecting value"),
        (not_text, "metrics/runs/trial1.json in the working tree"),
        (missing, "metrics/runs/trial1.json is missing"),
        (no_metric, "metrics/runs/trial1.json in the working tree has no 'auroc'"),
        (null, "metrics/runs/trial1.json in the working tree: value of auroc is None, not a number"),
        (not_a_number, "NaN is not a finite number"),
        (infinite, "1e999 is not a finite number"),
        (a_list, "metrics/runs/trial1.json in the working tree has no metrics"),
        (other_predictions, "accuracy is 0.9, but the predictions give 0.850000; run `dvc repro`"),
        (no_predictions, "the predictions of trial1 are missing in the working tree"),
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
    assert ["split.json is missing" in result["problems"][0], "data.json" in result["problems"][1]] == [True, True]


def test_a_run_of_one_side_only_is_named(project: Path) -> None:
    write(project, scores(wrong=90), run="trial9")
    status, result, text = run()
    assert (status, result["notes"]) == (0, ["added: trial9, accuracy 0.5500 (n = 200)"])
    assert "- added: trial9" in text
    assert {row["run"] for row in result["rows"]} == {"trial1"}
    commit(project)
    (project / "metrics/runs/trial9.json").unlink()  # params.yaml does not name it
    status, result, text = run()
    assert (status, result["notes"]) == (0, ["removed: trial9"])


def test_a_run_that_params_yaml_names_is_missed(project: Path) -> None:
    write(project, scores(), run="trial2")
    commit(project)
    (project / "metrics/runs/trial2.json").unlink()
    status, result, _ = run()
    assert (status, result["problems"]) == (1, ["metrics/runs/trial2.json is missing in the working tree"])


def test_the_active_run_is_compared_too(project: Path) -> None:
    write(project, scores(), run="active")
    commit(project)
    write(project, scores(wrong=60), run="active")
    status, result, _ = run()
    assert status == 1
    assert {row["run"] for row in result["rows"] if row["verdict"] == "regression"} == {"active"}


def test_a_broken_spread_is_one_line(project: Path) -> None:
    (project / "metrics/seeds.json").write_text('{"recipes": [1]}')
    status, result, _ = run()
    assert status == 2
    assert "metrics/seeds.json in the working tree is not the spread between runs" in result["problems"][0]


def experiment(root: Path, name: str, wrong: int) -> None:
    """Commit results as DVC does those of an experiment, and go back to the branch."""
    head = git(root, "rev-parse", "HEAD").strip()
    write(root, scores(wrong=wrong))
    commit(root)
    git(root, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", "HEAD")
    git(root, "reset", "--quiet", "--hard", head)


def test_the_base_may_be_an_experiment(project: Path) -> None:
    experiment(project, "high-rate", wrong=5)
    status, result, _ = run("high-rate")
    assert (status, verdicts(result)["accuracy"]) == (1, "regression")
    assert run("igh-rate")[0] == 2


def test_of_experiments_with_one_name_the_one_that_started_here_is_meant(project: Path) -> None:
    experiment(project, "high-rate", wrong=5)
    git(project, "commit", "--quiet", "--allow-empty", "--message", "later")
    experiment(project, "high-rate", wrong=20)
    assert run("high-rate")[0] == 0  # from here nothing changed
    git(project, "commit", "--quiet", "--allow-empty", "--message", "later still")
    status, result, _ = run("high-rate")
    assert status == 2
    assert "2 experiments are named 'high-rate'; give the commit" in result["problems"][0]


def test_another_source_cannot_be_compared(project: Path) -> None:
    write(project, scores(), source="sample")
    status, result, _ = run()
    assert status == 2
    assert "'kaggle' in HEAD and are 'sample' now" in result["problems"][0]


def test_a_base_without_metrics_cannot_be_compared(project: Path) -> None:
    (project / "metrics/runs/trial1.json").unlink()
    commit(project)
    write(project, scores())
    status, result, _ = run()
    assert status == 2
    assert "HEAD has no metrics/runs/*.json nor metrics/active.json" in result["problems"][0]


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


@pytest.mark.parametrize("name", sorted(changes.SCORERS))
def test_scorers_are_the_metrics_own(name: str) -> None:
    rng = np.random.default_rng(1)
    y_true, y_score = rng.integers(0, 2, 60), rng.random(60).round(2)
    expected = [point_values(y_true, score)[name] for score in (y_score, 1 - y_score)]
    assert changes.SCORERS[name](y_true, np.stack([y_score, 1 - y_score])) == pytest.approx(expected)


def test_permutation_test_agrees_with_mcnemar_where_both_apply() -> None:
    """Ten images, six lost: few enough for every permutation to be counted, two in 2**6 as large as this one."""
    y_true = np.ones(10, np.int64)
    before = np.full(10, 0.9)
    now = np.where(np.arange(10) < 6, 0.1, 0.9)
    assert changes.paired_p("recall", (y_true, before, now), 5000) == pytest.approx(2 * 0.5**6)
    assert changes.paired_p("f1", (y_true, before, now), 5000) == pytest.approx(2 * 0.5**6)
