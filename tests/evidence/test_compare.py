"""The comparison with the paper: its numbers against the inputs and against counting image by image."""

import csv
import json
from pathlib import Path
from typing import Any

import drawn_runs
import numpy as np
import pandas as pd
import pytest
import yaml

from faces.cli import InputError
from faces.evidence import comparison, pairs, seeds
from faces.evidence import metrics as measure
from faces.evidence.documents import RunMetrics, read_document
from faces.evidence.estimate import Estimate
from faces.evidence.metrics import evaluate_predictions
from faces.evidence.paper import Paper, load_paper
from faces.evidence.statistics import mcnemar, wilson
from faces.params import Evaluate
from stages.compare import main

ROOT = Path(__file__).parents[2]
PARAMS = Evaluate(confidence=0.95, resamples=200, seed=1, recall=0.95)
SIGNAL = {"trial1": 1.0, "trial2": 2.0, "trial3": 0.2, "improved": 2.5}  # the last is not in the paper


def make_predictions(signal: float, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    y_true = np.arange(200) % 2
    y_score = 1 / (1 + np.exp(-rng.normal((2 * y_true - 1) * signal, 1)))
    subset = ["test"] * 120 + ["validation"] * 80
    paths = [f"{i:03}.jpg" for i in range(200)]
    return pd.DataFrame({"path": paths, "subset": subset, "y_true": y_true, "y_score": y_score.round(6)})


def make_document(
    run: str, predictions: pd.DataFrame, source: str, train: float = 0.95, validation: float = 0.85
) -> RunMetrics:
    epoch = {"epoch": 10, "train_loss": 0.3, "train_accuracy": 0.9, "val_loss": 0.3, "val_accuracy": 0.9}
    facts = {
        "run": run,
        "source": source,
        "recipe": {"batch_size": 32},
        "split": "seed1",
        "seed": 1,
        "stopped_epoch": 20,
        "best_epoch": 10,
        "n_train": 400,
        "n_validation": 80,
        "device": "cpu",
        "weights": {"sha256": "0" * 64, "known_as": "random"},
        "model_sha256": "0" * 64,
        "at_best": epoch,
        "at_stop": epoch | {"epoch": 20, "train_accuracy": train, "val_accuracy": validation},
    }
    return evaluate_predictions(predictions, PARAMS, facts)


def make_inputs(source: str) -> tuple[dict[str, RunMetrics], dict[str, pd.DataFrame]]:
    predictions = {run: make_predictions(signal, seed) for seed, (run, signal) in enumerate(SIGNAL.items())}
    return {run: make_document(run, table, source) for run, table in predictions.items()}, predictions


def write_inputs(root: Path, source: str) -> None:
    documents, predictions = make_inputs(source)
    for folder in ("metrics", "predictions"):
        (root / folder).mkdir()
    for run in SIGNAL:
        (root / "metrics" / f"{run}.json").write_text(json.dumps(documents[run].model_dump()))
        predictions[run].to_csv(root / "predictions" / f"{run}.csv", index=False)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["evaluate"] = PARAMS.model_dump()
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (root / "paper.yaml").write_text((ROOT / "paper.yaml").read_text())
    (root / "seeds.json").write_text(json.dumps(drawn_runs.without_seeds(source).model_dump()))


def compare_in(root: Path, monkeypatch: pytest.MonkeyPatch, out: str = "out") -> list[Path]:
    monkeypatch.chdir(root)
    main(
        Path("metrics"),
        Path("predictions"),
        Path("paper.yaml"),
        seeds=Path("seeds.json"),
        out=Path(out) / "comparison",
        headline=Path(out) / "model.json",
    )
    return [root / out / f"comparison.{suffix}" for suffix in ("json", "csv")]


@pytest.fixture(scope="module")
def paper() -> Paper:
    return load_paper(ROOT / "paper.yaml")


@pytest.fixture(scope="module")
def result(paper: Paper) -> comparison.Comparison:
    documents, predictions = make_inputs("kaggle")
    return comparison.compare(paper, documents, predictions, {}, drawn_runs.without_seeds("kaggle"), PARAMS)


def test_outputs_agree_and_are_the_same_bytes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(tmp_path, "kaggle")
    first, second = compare_in(tmp_path, monkeypatch, "a"), compare_in(tmp_path, monkeypatch, "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    found = read_document(comparison.Comparison, first[0])
    headline = json.loads((tmp_path / "a/model.json").read_text())
    assert headline == {"improved": measure.headline(make_inputs("kaggle")[0]["improved"])}
    with first[1].open(newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert tuple(rows) == found.runs == tuple(SIGNAL)
    for item in found.quantities:
        row = rows[item.run]
        assert float(row[item.quantity]) == item.ours.value
        assert row[f"paper_{item.quantity}"] == ("" if item.paper is None else str(item.paper))
        if item.quantity == "accuracy":
            assert (float(row["low"]), float(row["high"]), int(row["n"])) == (
                item.ours.low,
                item.ours.high,
                item.ours.n,
            )
            assert row["verdict"] == (item.verdict or "")
    for epochs in found.epochs:
        row = rows[epochs.run]
        assert row["paper_stopped_epoch"] == ("" if epochs.paper is None else str(epochs.paper))
        assert (int(row["stopped_epoch"]), int(row["best_epoch"])) == (epochs.stopped, epochs.kept) == (20, 10)


def test_means_over_seeds_take_the_place_of_single_runs(paper: Paper) -> None:
    names = {trial: {seed: f"{trial}-seed{seed}" for seed in range(1, 5)} for trial in ("trial1", "trial2")}
    predictions = {
        name: make_predictions(SIGNAL[trial], 10 * number + seed)
        for number, (trial, own) in enumerate(names.items())
        for seed, name in own.items()
    }
    documents = {name: make_document(name, table, "kaggle") for name, table in predictions.items()}
    over = seeds.summarise(names, documents, predictions, "seed1", "kaggle", PARAMS)
    runs, scores = make_inputs("kaggle")
    recipes = {run: run for run in runs}
    alone = comparison.compare(paper, runs, scores, recipes, drawn_runs.without_seeds("kaggle"), PARAMS)
    found = comparison.compare(paper, runs, scores, recipes, over, PARAMS)
    for run in runs:
        ours = found.of(run)["accuracy"].ours
        if run in names:
            assert ours.value == over.recipes[run].metrics["accuracy"].mean
            assert ours.interval == (
                over.recipes[run].metrics["accuracy"].low,
                over.recipes[run].metrics["accuracy"].high,
            )
            assert ours.method.startswith("mean of 4 seeds")
        else:
            assert ours == alone.of(run)["accuracy"].ours
    pairs = {(pair.first, pair.second): pair for pair in found.pairs}
    assert pairs["trial1", "trial2"].difference == over.differences[0].accuracy
    assert {pair.seeds for pair in pairs.values()} == {1, 4}
    stopped = {epochs.run: epochs.over_seeds for epochs in found.epochs}
    assert stopped["trial1"] == over.recipes["trial1"].stopped_epoch
    assert stopped["trial3"] is None


def test_only_the_runs_that_are_compared_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(tmp_path, "kaggle")
    (tmp_path / "metrics" / "improved-split2.json").write_text("{")  # a run on another split
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    del params["runs"]["trial3"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    found = read_document(comparison.Comparison, compare_in(tmp_path, monkeypatch)[0])
    assert found.runs == ("trial1", "trial2", "improved")
    missing = {claim.claim: claim.missing for claim in found.claims}
    assert missing["trial 3 underfits"] == ("trial3",)


def test_quantities_come_from_the_documents(paper: Paper, result: comparison.Comparison) -> None:
    documents, _ = make_inputs("kaggle")
    assert len(result.quantities) == 4 * 6
    own = result.of("trial1")["f1"]
    assert own.ours == documents["trial1"].metrics["f1_weighted"]
    assert (own.paper, own.printed) == (0.8348, "0.8348")
    train = result.of("trial1")["train_accuracy"]
    assert (train.ours.value, train.ours.n, train.paper) == (0.95, 400, 0.987)
    assert train.ours.interval == pytest.approx(wilson(380, 400, 0.95), abs=1e-6)
    assert result.trials == {"trial1", "trial2", "trial3"}
    assert result.names == {"trial1": "trial 1", "trial2": "trial 2", "trial3": "trial 3", "improved": "improved"}
    assert {epochs.run: epochs.paper for epochs in result.epochs} == {
        "trial1": 30, "trial2": 56, "trial3": 58, "improved": None
    }  # fmt: skip
    for item in result.quantities:
        if item.run == "improved":
            assert (item.paper, item.printed, item.verdict) == (None, None, None)
        else:
            assert item.paper is not None
            inside = item.ours.low <= item.paper <= item.ours.high
            assert (item.verdict == "reproduced") is inside


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.8, 0.9, "reproduced"), (0.86, 0.9, "better"), (0.7, 0.84, "worse")]
)
def test_verdict(low: float, high: float, expected: str) -> None:
    assert comparison.verdict(0.85, Estimate(0.85, low, high, 300, "Wilson")) == expected


def test_pairs_equal_counting_image_by_image(result: comparison.Comparison) -> None:
    _, predictions = make_inputs("kaggle")
    assert [(pair.first, pair.second) for pair in result.pairs] == [
        ("trial1", "trial2"), ("trial1", "trial3"), ("trial1", "improved"),
        ("trial2", "trial3"), ("trial2", "improved"), ("trial3", "improved"),
    ]  # fmt: skip
    for pair in result.pairs:
        counts = {(a, b): 0 for a in (True, False) for b in (True, False)}
        rows = zip(*(predictions[run].head(120).itertuples() for run in (pair.first, pair.second)), strict=True)
        for a, b in rows:
            counts[(a.y_score >= 0.5) == a.y_true, (b.y_score >= 0.5) == b.y_true] += 1
        assert counts == {
            (True, True): pair.both_right,
            (True, False): pair.first_only,
            (False, True): pair.second_only,
            (False, False): pair.both_wrong,
        }
        assert pair.difference.value == pytest.approx((pair.first_only - pair.second_only) / 120, abs=1e-6)
        assert pair.difference.low <= pair.difference.value <= pair.difference.high
        assert pair.difference.n == 120
        assert pair.p == pytest.approx(mcnemar(pair.first_only, pair.second_only), abs=1e-6)
    ordered = sorted(result.pairs, key=lambda pair: pair.p)
    assert ordered[0].p_holm == pytest.approx(min(1, 6 * ordered[0].p), abs=6e-6)
    assert all(pair.distinguishable == (pair.p_holm < 0.05) for pair in result.pairs)


def test_a_run_is_right_where_its_own_threshold_says_so(paper: Paper) -> None:
    documents, predictions = make_inputs("kaggle")
    lower = documents["trial1"].settings.model_copy(update={"threshold": 0.3})
    documents["trial1"] = documents["trial1"].model_copy(update={"settings": lower})
    pair = pairs.run_pairs(documents, predictions, {}, PARAMS)[0]
    test = predictions["trial1"].head(120)
    assert pair.both_right + pair.first_only == ((test.y_score >= 0.3) == (test.y_true == 1)).sum()


def test_the_papers_own_ranking(result: comparison.Comparison) -> None:
    first = result.paper_pairs[0]
    assert (first.first, first.second) == ("trial2", "trial1")
    assert first.difference.value == pytest.approx((261 - 246) / 297, abs=1e-6)
    assert first.difference.n == 297
    assert first.p_min == pytest.approx(mcnemar(15, 0), rel=0.01)
    assert first.p_max == pytest.approx(mcnemar(51, 36), rel=0.01)


@pytest.mark.parametrize("source", ["sample", "own"])
def test_other_images_give_no_verdict(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(tmp_path, source)
    json_path, csv_path = compare_in(tmp_path, monkeypatch)
    found = read_document(comparison.Comparison, json_path)
    assert found.source == source
    assert {item.verdict for item in (*found.quantities, *found.claims)} == {None}
    with csv_path.open(newline="") as file:
        assert {(row["source"], row["verdict"]) for row in csv.DictReader(file)} == {(source, f"{source}: no verdict")}


def test_bad_inputs_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(tmp_path, "sample")
    good = (tmp_path / "predictions" / "trial2.csv").read_text()
    (tmp_path / "predictions" / "trial2.csv").write_text(good.replace("005.jpg", "999.jpg"))
    with pytest.raises(InputError, match="trial2 are not of the same test images"):
        compare_in(tmp_path, monkeypatch)
    (tmp_path / "predictions" / "trial2.csv").write_text(good)
    document = json.loads((tmp_path / "metrics" / "trial3.json").read_text())
    (tmp_path / "metrics" / "trial3.json").write_text(json.dumps(document | {"source": "kaggle"}))
    with pytest.raises(InputError, match=r"different data \(kaggle, sample\)"):
        compare_in(tmp_path, monkeypatch)
    (tmp_path / "metrics" / "trial3.json").unlink()
    with pytest.raises(InputError, match=r"metrics/trial3.json not found"):
        compare_in(tmp_path, monkeypatch)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("claim", "message"),
    [({"kind": "underfits", "against": "trial1"}, "needs margin"), ({"kind": "reaches"}, "needs accuracy")],
)
def test_an_incomplete_claim_is_refused(tmp_path: Path, claim: dict[str, Any], message: str) -> None:
    values = yaml.safe_load((ROOT / "paper.yaml").read_text())
    values["claims"] = [{"claim": "c", "trial": "trial2", **claim}]
    (tmp_path / "paper.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=f"claims.0: a claim of kind {claim['kind']} {message}"):
        load_paper(tmp_path / "paper.yaml")
