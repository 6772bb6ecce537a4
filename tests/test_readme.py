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


def test_the_improved_recipe_on_five_splits() -> None:
    repeats = metrics("repeats")["improved"]
    splits, over = repeats["splits"], repeats["over_splits"]
    assert len(splits) == 5
    assert "on the test images of five splits" in README
    mean = {name: over[name] | {"value": over[name]["mean"]} for name in over}
    low, high = (f"{100 * over['accuracy'][end]:.1f}%" for end in ("min", "max"))
    assert f"Its mean accuracy is {percent(mean['accuracy'])}), from {low} to {high}." in README
    reported = [row["paper"] for row in metrics("comparison")["quantities"] if row["quantity"] in TEST]
    assert over["accuracy"]["low"] > max(figure for figure in reported if figure)  # of any kind
    assert "The interval lies above every test figure that the paper reports." in README
    assert f"the threshold that is most accurate on validation it is {percent(mean['accuracy_chosen'])})" in README
    assert mean["accuracy_chosen"]["value"] < 0.98
    assert "Our aim of 98% is missed." in README
    again = repeats["again"]
    said = "Of the {} images held out at least twice, {} were wrong every time and {} only sometimes."
    assert said.format(again["n"], again["always_wrong"], again["sometimes_wrong"]) in README


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
    explained = metrics("explain")
    hidden = explained["accuracy"]["middle_hidden"]
    assert f"With the middle of the picture hidden, trial 2 is right on {percent(hidden)}, n = {hidden['n']})" in README
    assert metrics("active")["model_sha256"] == metrics("runs/trial2")["model_sha256"]
