"""What `dvc exp run -S` of each section of params.yaml costs: the table in docs/experiments.md.

python -m ci.costs docs/experiments.md

`dvc status` names the stages whose own inputs have changed. Here the stages after them are added, from the stages as
DVC reads them from dvc.yaml.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from faces.cli import ChangedFile, run
from faces.pages import markdown

MARKS = ("<!-- costs -->", "<!-- /costs -->")
TIMING = Path("metrics/timing.json")
KEYS = (  # at least one of each section of params.yaml, and of its parts whose costs differ
    "launch",
    "data.source",
    "data.max_files",
    "sample.images_per_class",
    "weights.source",
    "networks.source",
    "audit.hash_distance",
    "audit.max_pixels",
    "embed.score",
    "group.linkage",
    "split.train",
    "splits.seed1.seed",
    "splits.children1.seed",
    "recipe.weight_decay",
    "recipes.trial2.learning_rate",
    "recipes.improved.batch_size",
    "runs.trial1.seed",
    "train.batch_size",
    "train.split",
    "compare.seed",
    "model",
    "evaluate.recall",
    "probe.folds",
    "labels.faces",
)
KEPT = {"evaluate": "metrics/groups.csv"}  # by section: what a stage that reads it writes, but not from it
GROUPS = {"split": "splits", "run": "runs", "run_evaluate": "evaluations"}  # by `foreach` in dvc.yaml
AFTER_DOWNLOAD = 1.5  # the place of data.dvc among the stages of dvc.yaml
CAPTION = """
"Runs again" are the stages that read the value, as `dvc status` names them. "Then" are the stages
that depend on what these write. DVC skips a stage whose inputs come out the same, so "then" is the
most that can run. The summaries are {summaries}.

Trainings are the runs of `runs`, and the active run, which trains only if no run of `runs` has
trained the same. The minutes are those of the runs, the active one aside, as last measured
({hardware}).
"""


@dataclass(frozen=True)
class Stage:
    """A stage as DVC reads it: the parameters it names, those that its command or paths hold, and its paths."""

    name: str
    params: frozenset[str]
    filled_in: frozenset[str]
    deps: tuple[str, ...]
    outs: tuple[str, ...]

    def reads(self, key: str) -> bool:
        """Say whether the stage's record in dvc.lock changes with a parameter."""
        return key in self.filled_in or any(_overlap(f"{param}.", f"{key}.") for param in self.params)

    def follows(self, out: str) -> bool:
        """Say whether the stage depends on an output, on something in it, or on a folder that it is in."""
        out += "/"
        return any(_overlap(f"{dep}/", out) for dep in self.deps)


def _overlap(one: str, other: str) -> bool:
    """Say whether one of two names, each with its separator at the end, is the other or holds it."""
    return one.startswith(other) or other.startswith(one)


def read_stages() -> list[Stage]:
    """Return the stages of dvc.yaml, and the .dvc files, in the order of dvc.yaml."""
    from dvc.dependency.param import ParamsDependency
    from dvc.parsing.interpolate import get_matches
    from dvc.repo import Repo

    bodies = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    filled_in = {name: {match["inner"] for match in get_matches(str(body))} for name, body in bodies.items()}
    found = []
    with Repo(".") as repo:
        for stage in repo.index.stages:
            params = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
            found.append(
                Stage(
                    stage.addressing,
                    frozenset(str(name) for dep in params for name in dep.params),
                    frozenset(filled_in.get(stage.addressing.partition("@")[0], ())),
                    tuple(str(dep.def_path) for dep in stage.deps if dep not in params),
                    tuple(str(out.def_path) for out in stage.outs),
                )
            )
    order = {name: position for position, name in enumerate(bodies)}
    return sorted(found, key=lambda stage: order.get(stage.name.partition("@")[0], AFTER_DOWNLOAD))


def runs_again(stages: Sequence[Stage], key: str) -> tuple[set[str], set[str]]:
    """Return the names of the stages that read a parameter, and of those that follow them."""
    direct = [stage for stage in stages if stage.reads(key)]
    kept = KEPT.get(key.partition(".")[0], "")
    names = {stage.name for stage in direct}
    return names, _following(stages, direct, kept) - names


def _following(stages: Sequence[Stage], first: Iterable[Stage], kept: str = "") -> set[str]:
    """Return the names of the stages that depend on an output of the first ones, `kept` aside, or of such a stage."""
    found: set[str] = set()
    waiting = [out for stage in first for out in stage.outs if out != kept]
    while waiting:
        out = waiting.pop()
        for stage in stages:
            if stage.name not in found and stage.follows(out):
                found.add(stage.name)
                waiting += stage.outs
    return found


def table(stages: Sequence[Stage], runs: dict[str, dict[str, Any]], timing: dict[str, dict[str, Any]]) -> str:
    """Return the table and its caption, as Markdown; runs: params.yaml's; timing: metrics/timing.json's content."""
    order = [stage.name for stage in stages]
    evaluations = [stage for stage in stages if stage.name.startswith("run_evaluate@")]
    summaries = _following(stages, evaluations) - {"train", "evaluate"}
    rows: dict[tuple[str, ...], list[str]] = {}  # cells -> the values that have them
    for key in KEYS:
        direct, then = runs_again(stages, key)
        both = sorted(direct | then, key=order.index)
        trained = [name.removeprefix("run@") for name in both if name.startswith("run@")]
        trainings = [str(len(trained))] * bool(trained) + ["active"] * ("train" in both)
        summed_up = summaries if summaries <= direct | then else set()
        words = _words(order, then - summed_up, runs, both)
        if then & summed_up:
            words.append("the other summaries" if direct & summed_up else "the summaries")
        first, after = ", ".join(_words(order, direct, runs, [*direct])), ", ".join(words)
        minutes = _minutes(trained, timing) if trainings else "-"
        rows.setdefault((first, after, " + ".join(trainings) or "-", minutes), []).append(f"`{key}`")
    hardware = "; ".join(sorted({measured["hardware"] for measured in timing.values()})) or "none yet"
    named = ", ".join(f"`{name}`" for name in order if name in summaries)
    header = ["changed value", "runs again", "then", "trainings", "minutes"]
    cells = [[", ".join(keys), *others] for others, keys in rows.items()]
    return f"{markdown.table(header, cells)}\n\n{markdown.filled(CAPTION.format(summaries=named, hardware=hardware))}"


def _words(order: list[str], names: set[str], runs: dict[str, dict[str, Any]], row: list[str]) -> list[str]:
    """Return stages in words, the entries of a `foreach` together; order: all stages; row: those told by its end."""
    words = []
    for group, entries in groupby([name for name in order if name in names], lambda name: name.partition("@")[0]):
        keys = [name.partition("@")[2] for name in entries]
        if group not in GROUPS:
            words.append(f"`{group}`")
        elif group == "run_evaluate" and all(f"run@{key}" in row for key in keys):
            words.append("its evaluation" if len(keys) == 1 else "their evaluations")
        elif len(keys) == 1:
            words.append(f"{GROUPS[group].removesuffix('s')} `{keys[0]}`")
        elif len(keys) == sum(name.startswith(f"{group}@") for name in order):
            words.append(f"all {len(keys)} {GROUPS[group]}")
        else:
            words.append(f"{len(keys)} {GROUPS[group]}{_shared(keys, runs)}")
    return words


def _shared(keys: list[str], runs: dict[str, dict[str, Any]]) -> str:
    """Return what sets these runs apart: their recipe or their split, if no other run has it."""
    for what, word in (("recipe", "of"), ("split", "on")):
        values = {runs[key][what] for key in keys}
        if len(values) == 1 and all(key in keys for key in runs if runs[key][what] in values):
            return f" {word} `{values.pop()}`"
    return ""


def _minutes(trained: list[str], timing: dict[str, dict[str, Any]]) -> str:
    measured = [timing[name]["seconds"] for name in trained if name in timing]
    if not measured:
        return "not measured"
    some = "" if len(measured) == len(trained) else f" ({len(measured)} of {len(trained)} runs)"
    return f"{sum(measured) / 60:.0f}{some}"


def page(text: str) -> str:
    """Return docs/experiments.md with the text between its two marks replaced by the table."""
    runs = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["runs"]
    timing = json.loads(TIMING.read_text(encoding="utf-8"))
    return markdown.replaced("docs/experiments.md", text, MARKS, table(read_stages(), runs, timing))


def main(
    file: Annotated[ChangedFile, typer.Argument(help="the page with the marks <!-- costs --> and <!-- /costs -->")],
) -> None:
    """Put what a change of each section of params.yaml costs between the marks of a page."""
    file.write_text(page(file.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    run(main)
