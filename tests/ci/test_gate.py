"""The gate on small Git repositories: what passes, what is a regression, and what cannot be compared."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from revisions import EPYC, XEON, N, commit, git, of_matrix, scores, write, write_spread

from ci import changes, gate
from faces.evidence.metrics import point_values
from faces.evidence.statistics import mcnemar

REPOSITORY = Path(__file__).parents[2]
Change = Callable[[Path], None]


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
    (tmp_path / "ci").mkdir()
    for name in ("params.yaml", "ci/gate.yaml"):
        (tmp_path / name).write_text((REPOSITORY / name).read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    status, result, _ = run()
    assert status == 2
    assert "not a Git repository" in result["problems"][0]


def test_a_mistake_in_the_settings_is_named(project: Path) -> None:
    (project / "ci/gate.yaml").write_text("alpha: 5\npermutations: 1000\nsides: 1\n")
    status, result, _ = run("main")
    assert status == 2
    assert "gate.yaml: alpha: " in result["problems"][0]
    assert "sides is not a known parameter" in result["problems"][0]


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
