"""The table of what a change costs, against dvc.yaml, params.yaml and the times that are committed."""

from pathlib import Path

import pytest
import yaml

from ci import costs

PAGE = Path("docs/experiments.md")


@pytest.fixture(scope="module")
def stages() -> list[costs.Stage]:
    return costs.read_stages()


def test_the_committed_table_is_that_of_dvc_yaml_and_the_times() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert costs.page(text) == text, "run `make costs`"


def test_each_section_of_the_parameters_has_a_row() -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    assert {key.partition(".")[0] for key in costs.KEYS} == set(params)
    for key in costs.KEYS:
        value = params
        for name in key.split("."):
            value = value[name]  # KeyError: params.yaml has no such key any more
        assert not isinstance(value, dict), key


def test_the_active_run_costs_one_training_and_no_other(stages: list[costs.Stage]) -> None:
    direct, then = costs.runs_again(stages, "train.batch_size")
    assert direct == {"train"}
    assert then == {"evaluate", "explain", "plot", "report"}


def test_what_data_dvc_imports_is_followed(stages: list[costs.Stage]) -> None:
    direct, then = costs.runs_again(stages, "data.max_files")
    assert direct == {"download"}
    assert {"data.dvc", "audit", "split@seed1", "run@trial1", "run_evaluate@trial1", "compare", "report"} <= then
    assert not then & {"source", "weights", "networks", "consistency"}


def test_how_results_are_evaluated_trains_no_run(stages: list[costs.Stage]) -> None:
    direct, then = costs.runs_again(stages, "evaluate.recall")
    assert "group" in direct
    assert not any(name.startswith(("run@", "split@")) for name in direct | then)


def test_minutes_say_of_how_many_runs_they_are(stages: list[costs.Stage]) -> None:
    runs = {
        name: {"recipe": recipe, "split": split}
        for name, recipe, split in (("a", "x", "seed1"), ("b", "x", "seed2"), ("c", "y", "seed1"))
    }
    stages = [costs.Stage("report", frozenset(), frozenset(), ("metrics",), ("page",))]
    for name in reversed(runs):
        model, numbers = f"models/{name}", f"metrics/{name}.json"
        stages.insert(0, costs.Stage(f"run_evaluate@{name}", frozenset(), frozenset(), (f"{model}/a.pt",), (numbers,)))
    for name in reversed(runs):
        stages.insert(0, costs.Stage(f"run@{name}", frozenset({"recipe"}), frozenset(), ("data",), (f"models/{name}",)))
    text = costs.table(stages, runs, {"a": {"seconds": 90, "hardware": "one core"}})
    (row,) = [line for line in text.splitlines() if "`recipe.weight_decay`" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["`recipe.weight_decay`", "all 3 runs", "their evaluations, the summaries", "3", "2 (1 of 3 runs)"]
    assert "last measured (one core)" in " ".join(text.split())
    assert "The summaries are `report`." in " ".join(text.split())
