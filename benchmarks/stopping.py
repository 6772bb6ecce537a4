"""What another patience, or another epoch that is kept, would have given: read from the curves of finished runs.

    python -m benchmarks.stopping [RECIPE ...]

For each recipe, its runs on the compared split with all their seeds (params.yaml). A shorter patience is replayed on
the curves; a longer one cannot be. Accuracy is that of the validation images. Prints the table of docs/statistics.md.
"""

import statistics
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from faces.cli import InputError, run
from faces.pages.markdown import table
from faces.params import load_params

CURVES = Path("plots/history")
PATIENCE = (2, 3, 4, 5)
KEPT = ("lowest loss", "highest accuracy", "last")


def stopped(curve: pd.DataFrame, patience: int) -> pd.DataFrame:
    """Return the epochs of a run (columns val_loss, val_accuracy) until `patience` of them brought no lower loss."""
    lower = curve.val_loss < curve.val_loss.cummin().shift(fill_value=float("inf"))
    since = (~lower).groupby(lower.cumsum()).cumsum()
    return curve[since.eq(patience).cumsum().shift(fill_value=0).eq(0)]


def kept(curve: pd.DataFrame, rule: str) -> float:
    """Return the validation accuracy of the epoch that a rule of KEPT keeps, the first of equals."""
    row = {"lowest loss": curve.val_loss.argmin(), "highest accuracy": curve.val_accuracy.argmax(), "last": -1}[rule]
    return float(curve.val_accuracy.iloc[row])


def markdown(curves: dict[str, list[pd.DataFrame]]) -> str:
    """Return mean, standard deviation and range over the seeds of each recipe, for each patience and each rule."""
    rows = []
    for recipe, runs in curves.items():
        for patience, rule in [*((patience, KEPT[0]) for patience in PATIENCE), *((5, rule) for rule in KEPT[1:])]:
            ended = [stopped(curve, patience) for curve in runs]
            found = [100 * kept(curve, rule) for curve in ended]
            spread = f"{statistics.stdev(found):.1f}" if len(found) > 1 else "-"
            epochs = statistics.mean(map(len, ended))
            span = f"{min(found):.1f} to {max(found):.1f}%"
            mean = f"{statistics.mean(found):.1f}%"
            rows.append((recipe, len(runs), patience, rule, mean, spread, span, f"{epochs:.0f}"))
    head = ("recipe", "seeds", "patience", "epoch kept", "mean", "standard deviation", "range", "epochs")
    return table(head, rows)


def main(
    recipes: Annotated[list[str] | None, typer.Argument(metavar="RECIPE", help="of params.yaml")] = None,
) -> None:
    """Print what each patience and each rule for the epoch that is kept would have given."""
    params = load_params()
    curves: dict[str, list[pd.DataFrame]] = {}
    for recipe in recipes or ("trial1", "trial2", "trial3"):
        names = [name for name, run in params.runs.items() if (run.recipe, run.split) == (recipe, params.compare.split)]
        if not names:
            raise InputError(f"params.yaml: no run of a recipe {recipe!r} is on split {params.compare.split}")
        curves[recipe] = [pd.read_csv(CURVES / f"{name}.csv") for name in names]
    print(markdown(curves))


if __name__ == "__main__":
    run(main)
