"""The README's findings against the metrics they come from."""

import json
import re
from pathlib import Path
from typing import Any

TEST = ("accuracy", "precision", "recall", "f1")
README = re.sub(r"\s+", " ", Path("README.md").read_text(encoding="utf-8"))


def metrics(name: str) -> Any:
    return json.loads(Path("metrics", f"{name}.json").read_text(encoding="utf-8"))


def percent(metric: dict[str, Any]) -> str:
    return f"{100 * metric['value']:.1f}% ({100 * metric['low']:.1f} to {100 * metric['high']:.1f}"


def test_the_trials_are_as_many_right_and_not_told_apart() -> None:
    comparison = metrics("comparison")
    right = set()
    for trial in ("trial1", "trial2", "trial3"):
        (tn, _), (_, tp) = metrics(f"runs/{trial}")["confusion_matrix"]["matrix"]
        right.add(tn + tp)
    assert right == {275}
    assert "each of the paper's trials is right on 275" in README
    papers = [pair for pair in comparison["pairs"] if "improved" not in (pair["first"], pair["second"])]
    assert {f"{pair['p_holm']:.3f}" for pair in papers} == {"1.000"}
    best = next(claim for claim in comparison["claims"] if claim["claim"] == "trial 2 is best")
    assert best["verdict"] == "undecidable"
    lead = next(pair for pair in comparison["paper_pairs"] if (pair["first"], pair["second"]) == ("trial2", "trial1"))
    lead = lead["difference"]
    points = [100 * lead[key] for key in ("value", "low", "high")]
    assert "{:.1f} points ({:.1f} to {:.1f}, n = 297)".format(*points) in README
    assert lead["n"] == 297


def test_the_improved_recipe_on_the_trials_split() -> None:
    comparison = metrics("comparison")
    accuracy = metrics("runs/improved")["metrics"]["accuracy"]
    assert f"On the trials' own split it reaches {percent(accuracy)}" in README
    pairs = [pair for pair in comparison["pairs"] if "improved" in (pair["first"], pair["second"])]
    points = {abs(round(100 * pair["difference"]["value"], 1)) for pair in pairs}
    p_values = sorted(f"{pair['p_holm']:.3f}" for pair in pairs)
    assert len(points) == 1
    assert f"{points.pop()} points above each of the three, which 300 images do not tell from chance" in README
    assert f"(p = {p_values[0]} to {p_values[-1]})" in README
    assert not any(pair["distinguishable"] for pair in pairs)
    wrong = {name: run["where_probe_is_wrong"] for name, run in metrics("probes")["runs"].items()}
    said = "it is right on {}, n = {}), trial 2 on {})"
    assert said.format(percent(wrong["improved"]), wrong["improved"]["n"], percent(wrong["trial2"])) in README
    (beside,) = metrics("explain")["beside"]
    assert beside["run"] == "improved"
    middle, own = beside["accuracy"]["only_the_middle"], metrics("explain")["accuracy"]["only_the_middle"]
    assert (
        f"only the middle of the picture on {percent(middle)}, n = {middle['n']}), trial 2 on {percent(own)})" in README
    )
    hidden = beside["accuracy"]["middle_hidden"]
    assert f"with the middle hidden it is at chance, {percent(hidden)})" in README
    assert hidden["low"] < 0.5 < hidden["high"]


def test_the_improved_recipe_on_five_splits() -> None:
    repeats = metrics("repeats")["improved"]
    splits, over = repeats["splits"], repeats["over_splits"]
    assert len(splits) == 5
    mean = {name: over[name] | {"value": over[name]["mean"]} for name in over}
    assert f"Over five splits its test accuracy is {percent(mean['accuracy'])})" in README
    assert f"{percent(mean['accuracy_chosen'])}) at the threshold that is most accurate on validation" in README
    low, high = (f"{100 * over['accuracy'][end]:.1f}%" for end in ("min", "max"))
    assert f"from {low} to {high}" in README
    assert f"finds {percent(mean['recall_at_point'])}) of the images with Down syndrome" in README
    assert f"at a specificity of {percent(mean['specificity_at_point'])})" in README
    reported = [row["paper"] for row in metrics("comparison")["quantities"] if row["quantity"] in TEST]
    assert over["accuracy"]["low"] > max(figure for figure in reported if figure)  # of any kind
    assert "the interval lies above every test figure that the paper reports" in README
    again = repeats["again"]
    said = "Of the {} images held out at least twice, {} were wrong every time and {} only sometimes"
    assert said.format(again["n"], again["always_wrong"], again["sometimes_wrong"]) in README
    assert f"{len(repeats['suspects'])} of them with a mean of 90% or more for the other class" in README


def test_the_papers_table() -> None:
    rows = metrics("consistency")["rows"]
    assert not any(row["consistent"] for row in rows)
    implied = [row["implied_accuracy"] for row in rows]
    assert all(len(accuracies) == 1 for accuracies in implied)
    reported = [row["reported"]["accuracy"] for row in rows]
    said = "belong to accuracies of {}, {} and {}, not to the {}, {} and {} reported"
    assert said.format(*(accuracies[0] for accuracies in implied), *reported) in README
    assert [row["figure"]["gives_accuracy"] for row in rows] == [False, False, False]
    assert rows[0]["figure"]["same_as"] == ["trial3"]


def test_the_shortcuts() -> None:
    best = max((row["accuracy"] for row in metrics("probes")["probes"]), key=lambda metric: float(metric["value"]))
    assert f"{percent(best)}, n = {best['n']})" in README
    accuracy = metrics("explain")["accuracy"]
    assert percent(accuracy["middle_hidden"]) in README
    assert percent(accuracy["only_the_middle"]) in README
