"""Sentences against the numbers they are made of."""

import re
from pathlib import Path

import drawn_runs
import pytest

from faces.evidence import comparison
from faces.evidence.documents import Probes, read_document
from faces.evidence.estimate import Estimate
from faces.evidence.paper import load_paper
from faces.pages import sentences

NAMES = {"trial1": "trial 1", "trial2": "trial 2", "trial3": "trial 3", "improved": "improved"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    drawn_runs.make(root)
    return root / "metrics"


@pytest.fixture(scope="module")
def compared(root: Path) -> comparison.Comparison:
    return read_document(comparison.Comparison, root / "comparison.json")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min"), (3580, "1 h 00 min"), (3900, "1 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert sentences.duration(seconds) == text


def test_lists() -> None:
    assert sentences.listed([]) == ""
    assert sentences.listed(["a"]) == "a"
    assert sentences.listed(["a", "b"]) == "a and b"
    assert sentences.listed(["a", "b", "c"], "or") == "a, b or c"


def test_points_have_no_minus_before_zero() -> None:
    assert [sentences.points(value) for value in (0.0512, -0.0004, -0.012)] == ["5.1", "0.0", "-1.2"]


def test_a_pair_names_the_better_run_first(compared: comparison.Comparison) -> None:
    assert {pair.difference.value > 0 for pair in compared.pairs} == {True, False}
    for pair in compared.pairs:
        text = sentences.pair(pair, NAMES)
        numbers = re.search(
            r"(trial \d|improved) beats (trial \d|improved) by ([\d.]+) points \((-?[\d.]+) to (-?[\d.]+); p", text
        )
        assert numbers
        sign = 1 if numbers[1] == NAMES[pair.first] else -1
        difference = pair.difference
        assert float(numbers[3]) == pytest.approx(100 * sign * difference.value, abs=0.051)
        assert float(numbers[3]) > 0
        ends = sorted([100 * sign * difference.low, 100 * sign * difference.high])
        assert [float(numbers[4]), float(numbers[5])] == pytest.approx(ends, abs=0.051)
        assert text.endswith(f"{'' if pair.distinguishable else 'not '}distinguishable at n={difference.n}")


def test_runs_that_agree_tie() -> None:
    paper = load_paper(drawn_runs.REPOSITORY / "paper.yaml")
    run, predictions = drawn_runs.finished_run("trial1", n=120)[1:]
    runs = dict.fromkeys(("trial1", "trial2"), run)
    result = comparison.compare(
        paper, runs, dict.fromkeys(runs, predictions), {}, drawn_runs.without_seeds("kaggle"), drawn_runs.EVALUATE
    )
    tie = "trial 1 and trial 2 tie (0.0 to 0.0; p = 1.000): not distinguishable at n=120"
    assert sentences.pair(result.pairs[0], result.names) == tie
    told = {claim.claim: sentences.claim(claim, result) for claim in result.claims}
    assert told["trial 2 is best"].startswith(f"trial 2 is best: **undecidable at this n**. {tie}. Criterion: trial 2 ")
    assert told["trial 3 underfits"] == (
        "trial 3 underfits: **undecidable at this n**. not run: trial3. Criterion: needs these runs."
    )


def test_claims_say_the_estimate_that_decides_them(compared: comparison.Comparison) -> None:
    told = {claim.kind: (claim, sentences.claim(claim, compared)) for claim in compared.claims}
    for claim, text in told.values():
        assert f"{claim.claim}: **{claim.verdict}" in text
    reaches, text = told["reaches"]
    assert reaches.estimate
    assert (
        f"{reaches.estimate.percent} at n=300. Criterion: the interval of trial 2's test accuracy lies above 85%."
        in text
    )
    _, text = told["best"]
    others = [pair for pair in compared.pairs if "trial2" in (pair.first, pair.second)]
    for pair in others:  # all but the one with the run that the paper does not have
        inside = "improved" not in (pair.first, pair.second)
        assert (sentences.pair(pair, compared.names) in text) is inside
    for kind in ("underfits", "overfits"):
        claim, text = told[kind]
        assert claim.estimate
        low, value, high = (
            f"{100 * number:.1f}" for number in (claim.estimate.low, claim.estimate.value, claim.estimate.high)
        )
        assert f"{value} {'points below' if kind == 'underfits' else 'more'} ({low} to {high}) at n=2100" in text
    quantities = compared.of("trial1")
    gap = 100 * (quantities["train_accuracy"].ours.value - quantities["validation_accuracy"].ours.value)
    assert f"gaps of {gap:.1f} and " in told["overfits"][1]


def test_the_headline_is_the_best_run(compared: comparison.Comparison) -> None:
    accuracy = compared.of("trial2")["accuracy"]
    assert accuracy.ours.value == max(item.ours.value for item in compared.quantities if item.quantity == "accuracy")
    apart = sum(pair.distinguishable for pair in compared.pairs)
    assert sentences.headline(compared) == (
        f"Trial 2 classifies {accuracy.ours.percent} of 300 test images rightly; the paper reports 87.88% for it "
        f"({accuracy.verdict}). Of 6 pairs of runs, {apart or 'none'} can be told apart at n = 300."
    )


def test_a_best_run_that_the_paper_does_not_have_stands_beside_the_papers_best(compared: comparison.Comparison) -> None:
    best = Estimate(0.999, 0.99, 1.0, 300, "Wilson")
    changed = tuple(
        item.model_copy(update={"ours": best}) if (item.run, item.quantity) == ("improved", "accuracy") else item
        for item in compared.quantities
    )
    text = sentences.headline(compared.model_copy(update={"quantities": changed, "pairs": ()}))
    assert text == (
        "Improved classifies 99.9% (99.0 to 100.0) of 300 test images rightly; "
        "the best of the paper's trials is reported with 87.88%."
    )


def test_shortcuts_bound_what_a_run_owes_to_them(root: Path) -> None:
    probes = read_document(Probes, root / "probes.json")
    strongest, best = Estimate(0.7, 0.69, 0.71, 3000, "x"), Estimate(0.9, 0.8, 0.95, 300, "x")
    probe = probes.probes[0].model_copy(update={"accuracy": strongest})
    run = probes.runs["trial2"].model_copy(update={"accuracy": best})
    found = probes.model_copy(update={"probes": (probe,), "runs": {"trial2": run}})
    text = sentences.shortcuts(found, NAMES)
    assert text == (
        "Without seeing a face, the strongest probe (file, logistic regression) is right on 70.0% (69.0 to 71.0) of "
        "3000 images. Trial 2 is right on 90.0% (80.0 to 95.0) of 300 test images. Of the 40.0 points by which that "
        "beats a coin, shortcuts alone could explain up to 20.0 (50%). "
        "This does not show whether the network uses them."
    )
    coin = run.model_copy(update={"accuracy": Estimate(0.5, 0.4, 0.6, 300, "x")})
    text = sentences.shortcuts(found.model_copy(update={"runs": {"trial2": coin}}), NAMES)
    assert text.endswith("Trial 2 is right on 50.0% (40.0 to 60.0) of 300 test images.")
