"""The search for the improved recipe: changes to it, one experiment each in DVC's queue, compared on validation images.

    python -m faces.sweep queue     queue an experiment `sweep-NAME` for each NAME of faces/sweep.yaml: variants
    dvc queue start                 run them
    python -m faces.sweep table     print what they reached, as Markdown

Each trains `run@improved` with `base`, then the variant, laid over `recipes.improved`. Nothing is evaluated on
test images. `make sweep` does all three.
"""

import json
import subprocess
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from faces.cli import InputError, run
from faces.evidence.estimate import Estimate
from faces.pages.markdown import filled, marked, table
from faces.params import Params, load, load_params
from faces.section import Name, Section
from faces.training.recipe import PartOfRecipe, overlay

STAGE = "run@improved"
FACTS = "models/runs/improved/run.json"


class Sweep(Section):
    """Changes to recipes.improved, each an experiment; `base` is laid under all of them."""

    base: PartOfRecipe  # type: ignore[valid-type]
    variants: Annotated[dict[Name, PartOfRecipe], Field(min_length=1)]  # type: ignore[valid-type]


def load_sweep() -> Sweep:
    """Read and validate faces/sweep.yaml; an `InputError` names each key that is wrong."""
    return load(Sweep, Path("faces/sweep.yaml"))


def main(action: Literal["queue", "table"]) -> None:
    """Queue the experiments of the sweep, or print their table."""
    params, sweep = load_params(), load_sweep()
    if action == "queue":
        for name in sweep.variants:
            check(params, sweep, name)
        # `dvc exp run --force` would replace them too, and run the stages before this one again
        listed = subprocess.run(["dvc", "exp", "list", "-A", "--name-only"], check=True, capture_output=True, text=True)
        earlier = {f"sweep-{name}" for name in sweep.variants} & set(listed.stdout.split())
        if earlier:
            subprocess.run(["dvc", "exp", "remove", *sorted(earlier)], check=True)
        for name in sweep.variants:
            command = ["dvc", "exp", "run", "--queue", "--name", f"sweep-{name}"]
            subprocess.run([*command, *overrides(sweep, name), STAGE], check=True)
    else:
        print(markdown(params, sweep, {name: read_facts(name) for name in sweep.variants}), end="")


def check(params: Params, sweep: Sweep, name: str) -> None:
    """Raise an `InputError` that names the key, if a variant is not a valid recipe."""
    layers = [params.recipe, params.recipes["improved"], sweep.base, sweep.variants[name]]
    overlay(layers, where=f"sweep.variants.{name}")


def overrides(sweep: Sweep, name: str) -> list[str]:
    """Return the options of `dvc exp run` that lay the base and a variant over recipes.improved."""
    changes = flat(given(sweep.base)) | flat(given(sweep.variants[name]))
    return [word for key, value in changes.items() for word in ("-S", f"++recipes.improved.{key}={json.dumps(value)}")]


def given(changes: Section) -> dict[str, Any]:
    """Return the keys that params.yaml gives, of those that it may give."""
    return changes.model_dump(mode="json", exclude_unset=True)


def flat(changes: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested changes by dotted name: {"transforms": {"crop": 160}} is {"transforms.crop": 160}."""
    found: dict[str, Any] = {}
    for key, value in changes.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def read_facts(name: str) -> dict[str, Any]:
    """Return the run.json of a variant's experiment; an `InputError` says if there is none yet."""
    import dvc.api

    try:
        facts: dict[str, Any] = json.loads(dvc.api.read(FACTS, rev=f"sweep-{name}"))
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"experiment sweep-{name} has no result ({reason}); run: make sweep") from None
    return facts


def markdown(params: Params, sweep: Sweep, facts: dict[str, dict[str, Any]]) -> str:
    """Return the table of the variants, best validation accuracy first, and what the recipe and the base are."""
    rows = []
    for name, found in sorted(facts.items(), key=lambda item: (-item[1]["finished"]["val_accuracy"], item[0])):
        finished, n = found["finished"], found["n_validation"]
        accuracy = Estimate.proportion(round(finished["val_accuracy"] * n), n, params.evaluate.confidence)
        rows.append(
            (
                name,
                _in_words(given(sweep.variants[name])) or "none",
                accuracy.percent,
                n,
                f"{finished['val_loss']:.4f}",
                f"{found['best_epoch']} of {found['stopped_epoch']}",
                f"{found['at_best']['train_accuracy']:.1%}",
            )
        )
    header = ("variant", "change", "validation accuracy", "n", "validation loss", "epoch kept", "training accuracy")
    run = params.runs["improved"]
    return filled(
        f"""# The search for the improved recipe{marked(next(iter(facts.values()))["source"])}

One change at a time to `recipes.improved` ({_in_words(given(params.recipes["improved"]))}). All have
{_in_words(given(sweep.base))}, on split {run.split}, seed {run.seed};
{params.evaluate.confidence:.0%} intervals. No test image was scored.

{table(header, rows)}

All variants are scored on the same images; a difference that is small beside the intervals is a hint, not a finding.
"""
    )


def _in_words(changes: dict[str, Any]) -> str:
    return ", ".join(f"{key.removeprefix('transforms.')} {json.dumps(value)}" for key, value in flat(changes).items())


if __name__ == "__main__":
    run(main)
