"""The search for the improved recipe: changes to it, one experiment each in DVC's queue, compared on validation images.

    python -m faces.sweep queue     queue an experiment `sweep-NAME` for each NAME of faces/sweep.yaml: variants
    dvc queue start                 run them
    python -m faces.sweep table     print what they reached, as Markdown

Each trains the runs of `runs`, which are of the recipe `improved` on several splits, with the variant laid over
`recipes.improved`. Their validation images are pooled: 600 do not tell one point apart. Nothing is evaluated on test
images. `make sweep` does all three.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import Field

from faces.cli import InputError, execute, run
from faces.evidence.estimate import Estimate
from faces.pages.markdown import filled, marked, table
from faces.params import Params, load, load_params
from faces.section import Name, Section
from faces.training.recipe import PartOfRecipe, overlay

RECIPE = "improved"


class Sweep(Section):
    """Changes to recipes.improved, each an experiment, and the runs that are trained in it."""

    runs: Annotated[list[Name], Field(min_length=1)]
    variants: Annotated[dict[Name, PartOfRecipe], Field(min_length=1)]  # type: ignore[valid-type]


def load_sweep() -> Sweep:
    """Read and validate faces/sweep.yaml; an `InputError` names each key that is wrong."""
    return load(Sweep, Path("faces/sweep.yaml"))


def main(
    action: Annotated[Literal["queue", "table"], typer.Argument(help="queue the experiments, or print their table")],
) -> None:
    """Queue the experiments of the sweep, or print their table.

    Example: python -m faces.sweep queue
    """
    params, sweep = load_params(), load_sweep()
    if action == "queue":
        for name in sweep.variants:
            check(params, sweep, name)
        # `dvc exp run --force` would replace them too, and run the stages before this one again
        listed = execute("dvc", "exp", "list", "-A", "--name-only").split()
        earlier = {f"sweep-{name}" for name in sweep.variants} & set(listed)
        if earlier:
            execute("dvc", "exp", "remove", *sorted(earlier))
        for name in sweep.variants:
            command = ["dvc", "exp", "run", "--queue", "--name", f"sweep-{name}"]
            print(execute(*command, *overrides(sweep, name), *(f"run@{one}" for one in sweep.runs)), end="")
    else:
        facts = {name: [read_facts(name, one) for one in sweep.runs] for name in sweep.variants}
        print(markdown(params, sweep, facts), end="")


def check(params: Params, sweep: Sweep, name: str) -> None:
    """Raise an `InputError` that names the key, if a variant is not a valid recipe, or a run not of the recipe."""
    for one in sweep.runs:
        if one not in params.runs or params.runs[one].recipe != RECIPE:
            raise InputError(f"faces/sweep.yaml: runs: {one!r} is no run of the recipe {RECIPE} in params.yaml")
    layers = [params.recipe, params.recipes[RECIPE], sweep.variants[name]]
    overlay(layers, where=f"sweep.variants.{name}")


def overrides(sweep: Sweep, name: str) -> list[str]:
    """Return the options of `dvc exp run` that lay a variant over recipes.improved."""
    changes = flat(given(sweep.variants[name]))
    return [word for key, value in changes.items() for word in ("-S", f"++recipes.{RECIPE}.{key}={json.dumps(value)}")]


def given(changes: Section) -> dict[str, Any]:
    """Return the keys that params.yaml gives, of those that it may give."""
    return changes.model_dump(mode="json", exclude_unset=True)


def flat(changes: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested changes by dotted name: {"transforms": {"crop": 160}} is {"transforms.crop": 160}."""
    found: dict[str, Any] = {}
    for key, value in changes.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def read_facts(name: str, one: str) -> dict[str, Any]:
    """Return run.json of a run of a variant's experiment, with the seconds it took; `InputError` if it has none yet."""
    import dvc.api

    try:
        facts, timing = (
            json.loads(dvc.api.read(f"models/runs/{one}/{file}.json", rev=f"sweep-{name}"))
            for file in ("run", "timing")
        )
        return {**facts, "seconds": timing["seconds"]}
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"experiment sweep-{name} has no result ({reason}); run: make sweep") from None


def markdown(params: Params, sweep: Sweep, facts: dict[str, list[dict[str, Any]]]) -> str:
    """Return the table of the variants, best validation accuracy first, and what the recipe is.

    facts: what `read_facts` returned of each run, by variant.
    """
    rows = []
    for name, runs in facts.items():
        n = sum(run["n_validation"] for run in runs)
        right = sum(round(run["finished"]["val_accuracy"] * run["n_validation"]) for run in runs)
        loss = sum(run["finished"]["val_loss"] * run["n_validation"] for run in runs) / n
        minutes = sum(run["seconds"] for run in runs) / len(runs) / 60
        accuracy = Estimate.proportion(right, n, params.evaluate.confidence)
        changes = _in_words(given(sweep.variants[name])) or "none"
        rows.append((-right / n, name, (name, changes, accuracy.percent, n, f"{loss:.4f}", f"{minutes:.0f}")))
    header = ("variant", "change", "validation accuracy", "n", "validation loss", "minutes a run")
    splits = ", ".join(f"{params.runs[one].split} (seed {params.runs[one].seed})" for one in sweep.runs)
    return filled(
        f"""# The search for the improved recipe{marked(next(iter(facts.values()))[0]["source"])}

One change at a time to `recipes.{RECIPE}` ({_in_words(given(params.recipes[RECIPE]))}), trained on the
splits {splits}; the validation images of all, one view each, {params.evaluate.confidence:.0%} intervals. No test image
was scored.

{table(header, [row for _, _, row in sorted(rows)])}

All variants are scored on the same images; a difference that is small beside the intervals is a hint, not a finding.
"""
    )


def _in_words(changes: dict[str, Any]) -> str:
    return ", ".join(f"{key.removeprefix('transforms.')} {json.dumps(value)}" for key, value in flat(changes).items())


if __name__ == "__main__":
    run(main)
