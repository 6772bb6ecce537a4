"""The search for the improved recipe: changes to it, one experiment each in DVC's queue, compared on validation images.

    python -m faces.sweep queue     queue an experiment `sweep-NAME` for each NAME of params.yaml: sweep.variants
    dvc queue start                 run them
    python -m faces.sweep table     print what they reached, as Markdown

Each trains `run@improved` with `sweep.base`, then the variant, laid over `recipes.improved`. Nothing is evaluated on
test images. `make sweep` does all three.
"""

import json
from typing import Any, Literal

from faces.cli import InputError, execute, run
from faces.evidence.estimate import Estimate
from faces.pages.markdown import filled, marked, table
from faces.params import Params, load_params
from faces.section import Section
from faces.training.recipe import overlay

STAGE = "run@improved"
FACTS = "models/runs/improved/run.json"


def main(action: Literal["queue", "table"]) -> None:
    """Queue the experiments of the sweep, or print their table."""
    params = load_params()
    if action == "queue":
        for name in params.sweep.variants:
            check(params, name)
        # `dvc exp run --force` would replace them too, and run the stages before this one again
        listed = execute("dvc", "exp", "list", "-A", "--name-only").split()
        earlier = {f"sweep-{name}" for name in params.sweep.variants} & set(listed)
        if earlier:
            execute("dvc", "exp", "remove", *sorted(earlier))
        for name in params.sweep.variants:
            command = ["dvc", "exp", "run", "--queue", "--name", f"sweep-{name}"]
            print(execute(*command, *overrides(params, name), STAGE), end="")
    else:
        print(markdown(params, {name: read_facts(name) for name in params.sweep.variants}), end="")


def check(params: Params, name: str) -> None:
    """Raise an `InputError` that names the key, if a variant is not a valid recipe."""
    layers = [params.recipe, params.recipes["improved"], params.sweep.base, params.sweep.variants[name]]
    overlay(layers, where=f"sweep.variants.{name}")


def overrides(params: Params, name: str) -> list[str]:
    """Return the options of `dvc exp run` that lay the base and a variant over recipes.improved."""
    changes = flat(given(params.sweep.base)) | flat(given(params.sweep.variants[name]))
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


def markdown(params: Params, facts: dict[str, dict[str, Any]]) -> str:
    """Return the table of the variants, best validation accuracy first, and what the recipe and the base are."""
    rows = []
    for name, found in sorted(facts.items(), key=lambda item: (-item[1]["at_best"]["val_accuracy"], item[0])):
        best, n = found["at_best"], found["n_validation"]
        accuracy = Estimate.proportion(round(best["val_accuracy"] * n), n, params.evaluate.confidence)
        rows.append(
            (
                name,
                _in_words(given(params.sweep.variants[name])) or "none",
                accuracy.percent,
                n,
                f"{best['val_loss']:.4f}",
                f"{found['best_epoch']} of {found['stopped_epoch']}",
                f"{best['train_accuracy']:.1%}",
            )
        )
    header = ("variant", "change", "validation accuracy", "n", "validation loss", "epoch kept", "training accuracy")
    run = params.runs["improved"]
    return filled(
        f"""# The search for the improved recipe{marked(next(iter(facts.values()))["source"])}

One change at a time to `recipes.improved` ({_in_words(given(params.recipes["improved"]))}). All have
{_in_words(given(params.sweep.base))}, on split {run.split}, seed {run.seed};
{params.evaluate.confidence:.0%} intervals. No test image was scored.

{table(header, rows)}

All variants are scored on the same images; a difference that is small beside the intervals is a hint, not a finding.
"""
    )


def _in_words(changes: dict[str, Any]) -> str:
    return ", ".join(f"{key.removeprefix('transforms.')} {json.dumps(value)}" for key, value in flat(changes).items())


if __name__ == "__main__":
    run(main)
