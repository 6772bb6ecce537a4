"""The comparison with the paper: its numbers against the inputs and counting, its words against its numbers."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from faces.cli import InputError
from faces.evidence import comparison
from faces.evidence.metrics import evaluate_predictions
from faces.evidence.paper import Claim, Paper, load_paper
from faces.evidence.statistics import mcnemar, wilson
from faces.params import Evaluate
from stages.compare import main

ROOT = Path(__file__).parents[2]
PARAMS = Evaluate(confidence=0.95, resamples=200, seed=1, recall=0.95)
OUTPUTS = ("comparison.json", "comparison.csv", "comparison.md")
SIGNAL = {"trial1": 1.0, "trial2": 2.0, "trial3": 0.2, "improved": 2.5}  # the last is not in the paper


def make_predictions(signal: float, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    y_true = np.arange(200) % 2
    y_score = 1 / (1 + np.exp(-rng.normal((2 * y_true - 1) * signal, 1)))
    subset = ["test"] * 120 + ["validation"] * 80
    paths = [f"{i:03}.jpg" for i in range(200)]
    return pd.DataFrame({"path": paths, "subset": subset, "y_true": y_true, "y_score": y_score.round(6)})


def make_document(
    trial: str, predictions: pd.DataFrame, source: str, train: float = 0.95, validation: float = 0.85
) -> dict[str, Any]:
    run = {
        "run": f"trials.{trial}",
        "source": source,
        "recipe": {"batch_size": 32},
        "seed": 1,
        "stopped_epoch": 20,
        "best_epoch": 10,
        "n_train": 400,
        "n_validation": 80,
        "weights": {"sha256": "0" * 64, "known_as": "random"},
        "model_sha256": "0" * 64,
        "at_best": {"train_accuracy": 0.9, "val_accuracy": 0.9},
        "at_stop": {"train_accuracy": train, "val_accuracy": validation},
    }
    return evaluate_predictions(predictions, PARAMS, run)


def make_inputs(source: str) -> tuple[dict[str, dict[str, Any]], dict[str, pd.DataFrame]]:
    predictions = {trial: make_predictions(signal, seed) for seed, (trial, signal) in enumerate(SIGNAL.items())}
    return {trial: make_document(trial, table, source) for trial, table in predictions.items()}, predictions


def write_inputs(root: Path, source: str) -> None:
    documents, predictions = make_inputs(source)
    for folder in ("trials", "predictions"):
        (root / folder).mkdir()
    for trial in SIGNAL:
        (root / "trials" / f"{trial}.json").write_text(json.dumps(documents[trial]))
        predictions[trial].to_csv(root / "predictions" / f"{trial}.csv", index=False)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["evaluate"] = PARAMS.model_dump()
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (root / "paper.yaml").write_text((ROOT / "paper.yaml").read_text())


def compare_in(root: Path, monkeypatch: pytest.MonkeyPatch, out: str = "out") -> list[Path]:
    monkeypatch.chdir(root)
    outputs = [Path(out) / name for name in OUTPUTS]
    main(Path("trials"), Path("predictions"), Path("paper.yaml"), *outputs)
    return [root / path for path in outputs]


@pytest.fixture(scope="module")
def paper() -> Paper:
    return load_paper(ROOT / "paper.yaml")


@pytest.fixture(scope="module")
def result(paper: Paper) -> dict[str, Any]:
    documents, predictions = make_inputs("kaggle")
    return comparison.compare(paper, documents, predictions, PARAMS)


def test_outputs_agree_and_are_the_same_bytes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(tmp_path, "kaggle")
    first, second = compare_in(tmp_path, monkeypatch, "a"), compare_in(tmp_path, monkeypatch, "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    report = json.loads(first[0].read_text())
    with first[1].open(newline="") as file:
        rows = {row["trial"]: row for row in csv.DictReader(file)}
    page = first[2].read_text()
    assert list(rows) == list(SIGNAL)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    for item in report["quantities"]:
        row = rows[item["trial"]]
        assert float(row[item["quantity"]]) == item["value"]
        assert row[f"paper_{item['quantity']}"] == ("" if item["paper"] is None else str(item["paper"]))
        cells = next(cells for cells in lines if cells[:2] == [item["name"], item["title"]])
        if item["quantity"] == "stopped_epoch":
            assert cells[2:4] == [str(item["paper"] or ""), str(item["value"])]
        else:
            interval = f"{100 * item['low']:.1f} to {100 * item['high']:.1f}"
            assert cells[3:] == [f"{item['value']:.2%}", interval, str(item["n"]), item["verdict"] or ""]
            assert (cells[2] == "") == (item["verdict"] is None) == (item["trial"] == "improved")
    flat = " ".join(page.split())
    for pair in report["pairs"]:
        assert pair["sentence"] in flat
    for claim in report["claims"]:
        assert f"{claim['claim']}: **{claim['verdict']}" in flat
    assert max(map(len, page.splitlines())) <= 120


def test_quantities_come_from_the_documents(paper: Paper, result: dict[str, Any]) -> None:
    documents, _ = make_inputs("kaggle")
    found = {(item["trial"], item["quantity"]): item for item in result["quantities"]}
    assert len(found) == 4 * 7
    own = found["trial1", "f1"]
    assert own["value"] == documents["trial1"]["metrics"]["f1_weighted"]["value"]
    assert (own["paper"], own["paper_text"]) == (0.8348, "0.8348")
    train = found["trial1", "train_accuracy"]
    assert (train["value"], train["n"], train["paper"]) == (0.95, 400, 0.987)
    assert (train["low"], train["high"]) == pytest.approx(wilson(380, 400, 0.95), abs=1e-6)
    for item in found.values():
        if item["trial"] == "improved":
            assert (item["paper"], item["paper_text"], item["verdict"]) == (None, None, None)
        elif item["low"] is not None:
            inside = item["low"] <= item["paper"] <= item["high"]
            assert (item["verdict"] == "reproduced") is inside


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.8, 0.9, "reproduced"), (0.86, 0.9, "better"), (0.7, 0.84, "worse")]
)
def test_verdict(low: float, high: float, expected: str) -> None:
    assert comparison.verdict(0.85, low, high) == expected
    assert comparison.verdict(None, low, high) is None


def test_pairs_equal_counting_image_by_image(result: dict[str, Any]) -> None:
    _, predictions = make_inputs("kaggle")
    assert [(pair["first"], pair["second"]) for pair in result["pairs"]] == [
        ("trial1", "trial2"), ("trial1", "trial3"), ("trial1", "improved"),
        ("trial2", "trial3"), ("trial2", "improved"), ("trial3", "improved"),
    ]  # fmt: skip
    for pair in result["pairs"]:
        counts = {(a, b): 0 for a in (True, False) for b in (True, False)}
        rows = zip(*(predictions[pair[key]].head(120).itertuples() for key in ("first", "second")), strict=True)
        for a, b in rows:
            counts[(a.y_score >= 0.5) == a.y_true, (b.y_score >= 0.5) == b.y_true] += 1
        assert counts == {
            (True, True): pair["both_right"],
            (True, False): pair["first_only"],
            (False, True): pair["second_only"],
            (False, False): pair["both_wrong"],
        }
        assert pair["difference"] == pytest.approx((pair["first_only"] - pair["second_only"]) / 120, abs=1e-6)
        assert pair["low"] <= pair["difference"] <= pair["high"]
        assert pair["p"] == pytest.approx(mcnemar(pair["first_only"], pair["second_only"]), abs=1e-6)
    ordered = sorted(result["pairs"], key=lambda pair: pair["p"])
    assert ordered[0]["p_holm"] == pytest.approx(min(1, 6 * ordered[0]["p"]), abs=6e-6)
    assert all(pair["distinguishable"] == (pair["p_holm"] < 0.05) for pair in result["pairs"])


def test_sentences_name_the_better_trial_first(result: dict[str, Any]) -> None:
    for pair in result["pairs"]:
        numbers = re.search(
            r"(trial \d|improved) beats (trial \d|improved) by ([\d.]+) points \((-?[\d.]+) to (-?[\d.]+); p",
            pair["sentence"],
        )
        assert numbers
        sign = 1 if numbers[1].replace(" ", "") == pair["first"] else -1
        assert float(numbers[3]) == pytest.approx(100 * sign * pair["difference"], abs=0.051)
        ends = sorted([100 * sign * pair["low"], 100 * sign * pair["high"]])
        assert [float(numbers[4]), float(numbers[5])] == pytest.approx(ends, abs=0.051)
        assert pair["sentence"].endswith(f"{'' if pair['distinguishable'] else 'not '}distinguishable at n=120")


def test_trials_that_agree_tie(paper: Paper) -> None:
    predictions = {trial: make_predictions(1, 0) for trial in ("trial1", "trial2")}
    documents = {trial: make_document(trial, table, "kaggle") for trial, table in predictions.items()}
    result = comparison.compare(paper, documents, predictions, PARAMS)
    assert result["pairs"][0]["sentence"] == (
        "trial 1 and trial 2 tie (0.0 to 0.0; p = 1.000): not distinguishable at n=120"
    )
    verdicts = {claim["claim"]: claim for claim in result["claims"]}
    assert verdicts["trial 2 is best"]["verdict"] == "undecidable"
    assert verdicts["trial 3 underfits"]["evidence"] == "not run: trial3"


def claim_of(kind: str, **more: Any) -> Claim:
    return Claim.model_validate({"claim": "c", "kind": kind, "trial": "trial2", **more})


def weighed(claim: Claim, paper: Paper, documents: dict[str, Any], pairs: list[dict[str, Any]] | None = None) -> str:
    return str(comparison.weigh(claim, paper, documents, pairs or [], 0.95)["verdict"])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.86, 0.95, "supported"), (0.7, 0.84, "not supported"), (0.8, 0.9, "undecidable")],
)
def test_reaching_a_target(paper: Paper, low: float, high: float, expected: str) -> None:
    accuracy = {"value": (low + high) / 2, "low": low, "high": high, "n": 300}
    documents = {"trial2": {"metrics": {"accuracy": accuracy}}}
    assert weighed(claim_of("reaches", accuracy=0.85), paper, documents) == expected


@pytest.mark.parametrize(
    ("wins", "expected"),
    [
        ((0.1, True, 0.1, True), "supported"),
        ((0.1, True, 0.02, False), "undecidable"),
        ((-0.02, False, 0.1, True), "undecidable"),
        ((-0.1, True, 0.1, True), "not supported"),
    ],
)
def test_being_best(paper: Paper, wins: tuple[float, bool, float, bool], expected: str) -> None:
    pairs = [
        {"first": "trial1", "second": "trial2", "difference": -wins[0], "distinguishable": wins[1], "sentence": ""},
        {"first": "trial2", "second": "trial3", "difference": wins[2], "distinguishable": wins[3], "sentence": ""},
        {"first": "trial1", "second": "trial3", "difference": 0.3, "distinguishable": True, "sentence": ""},
        # no part of the paper's claim: a trial that the paper does not have
        {"first": "trial2", "second": "improved", "difference": -0.3, "distinguishable": True, "sentence": ""},
    ]
    documents: dict[str, Any] = {trial: {} for trial in SIGNAL}
    assert weighed(claim_of("best"), paper, documents, pairs) == expected


def trained(train: float, validation: float) -> dict[str, Any]:
    stop = {"train_accuracy": train, "val_accuracy": validation}
    return {"training": {"at_stop": stop, "n_train": 2000, "n_validation": 600}}


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [(0.85, 0.97, "supported"), (0.95, 0.97, "not supported"), (0.92, 0.97, "undecidable")],
)
def test_underfitting(paper: Paper, own: float, other: float, expected: str) -> None:
    documents = {"trial2": trained(own, 0.8), "trial1": trained(other, 0.8)}
    assert weighed(claim_of("underfits", against="trial1", margin=0.05), paper, documents) == expected


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [((0.99, 0.8), (0.95, 0.9), "supported"), ((0.95, 0.95), (0.99, 0.8), "not supported"),
     ((0.97, 0.9), (0.96, 0.9), "undecidable")],
)  # fmt: skip
def test_overfitting(paper: Paper, own: tuple[float, float], other: tuple[float, float], expected: str) -> None:
    documents = {"trial2": trained(*own), "trial1": trained(*other)}
    assert weighed(claim_of("overfits", against="trial1"), paper, documents) == expected


def test_the_papers_own_ranking(result: dict[str, Any]) -> None:
    first = result["paper_pairs"][0]
    assert (first["first"], first["second"]) == ("trial2", "trial1")
    assert first["difference"] == pytest.approx((261 - 246) / 297, abs=1e-6)
    assert first["p_min"] == pytest.approx(mcnemar(15, 0), rel=0.01)
    assert first["p_max"] == pytest.approx(mcnemar(51, 36), rel=0.01)


@pytest.mark.parametrize("source", ["sample", "own"])
def test_other_images_give_no_verdict_and_say_so(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(tmp_path, source)
    report_path, csv_path, page_path = compare_in(tmp_path, monkeypatch)
    report, page = json.loads(report_path.read_text()), page_path.read_text()
    assert (report["source"], report["verdicts"]) == (source, False)
    assert {item["verdict"] for item in report["quantities"] + report["claims"]} == {None}
    with csv_path.open(newline="") as file:
        assert {(row["source"], row["verdict"]) for row in csv.DictReader(file)} == {(source, f"{source}: no verdict")}
    for line in page.splitlines():
        if line.startswith("| trial "):
            assert source in line or "verdict" in line  # the header row
    assert all(
        f"({source})" in line for line in page.splitlines() if line.startswith("#") and "own ranking" not in line
    )
    assert not re.search(r"reproduced|better|worse|supported|undecidable", page)


def test_bad_inputs_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(tmp_path, "sample")
    good = (tmp_path / "predictions" / "trial2.csv").read_text()
    (tmp_path / "predictions" / "trial2.csv").write_text(good.replace("005.jpg", "999.jpg"))
    with pytest.raises(InputError, match="trial2 are not of the same test images"):
        compare_in(tmp_path, monkeypatch)
    (tmp_path / "predictions" / "trial2.csv").write_text(good)
    document = json.loads((tmp_path / "trials" / "trial3.json").read_text())
    (tmp_path / "trials" / "trial3.json").write_text(json.dumps(document | {"source": "kaggle"}))
    with pytest.raises(InputError, match=r"different data \(kaggle, sample\)"):
        compare_in(tmp_path, monkeypatch)
    (tmp_path / "trials" / "trial3.json").unlink()
    with pytest.raises(InputError, match=r"trials/trial3.json not found"):
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
