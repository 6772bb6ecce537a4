"""Draw the figures for people, and put the compared runs' curves into the tables that `dvc plots` draws."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from matplotlib.figure import Figure

from faces.cli import InFolder, OutFolder, run
from faces.evidence.children import Children, Recipe
from faces.evidence.documents import RunMetrics, read_document
from faces.files import replaced, write_atomically
from faces.pages import figures
from faces.pages.children import recall_by_similarity
from faces.params import load_params

CURVES = ("roc", "pr", "calibration", "confusion", "operating_point")


@dataclass(frozen=True)
class Run:
    """What is drawn of one run: its metrics, and its tables by name (`history` and those of CURVES)."""

    document: RunMetrics
    tables: dict[str, pd.DataFrame]

    def heading(self, what: str, subset: str) -> str:
        """Return the title of a figure of this run alone."""
        n = {"train": self.document.n.train, "test": self.document.n.test}[subset]
        return figures.title(what, self.document.run, n, self.document.source)


def main(
    metrics: Annotated[InFolder, typer.Argument(help="folder of the metrics")],
    plots: Annotated[InFolder, typer.Argument(help="folder of histories and curves")],
    out_figures: Annotated[OutFolder, typer.Option("--figures", help="folder of the pictures")],
    out_compared: Annotated[OutFolder, typer.Option("--compared", help="folder of the tables for `dvc plots`")],
) -> None:
    """Draw the compared runs, and the active one where it is none of them."""
    params = load_params()
    compared = {
        name: _read(metrics / "runs" / f"{name}.json", plots / "history" / f"{name}.csv", plots / "curves" / name)
        for name in params.compared
    }
    folder = plots / "active"
    active = _read(metrics / "active.json", folder / "history.csv", folder / "curves")
    finished = {one.document.model_sha256 for one in compared.values()}
    drawn = compared if active.document.model_sha256 in finished else {**compared, active.document.run: active}

    balance = read_document(dict[str, Any], metrics / "data.json")
    same_test = {name: one for name, one in drawn.items() if one.document.training.split == params.compare.split}
    pictures = {"class_balance": _balance(balance), **_beside_each_other(same_test)}
    seen = read_document(Children, metrics / "children.json")
    pictures |= {f"children_{recipe}": _recall(recipe, found, seen) for recipe, found in seen.recipes.items()}
    for name, one in drawn.items():
        pictures |= {f"{kind}_{name}": figure for kind, figure in _alone(one).items()}
    with replaced(out_figures) as new:
        for name, figure in pictures.items():
            figures.save(figure, new / f"{name}.png")
    for name, table in together(compared).items():
        write_atomically(out_compared / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode())


def _read(document: Path, history: Path, curves: Path) -> Run:
    tables = {"history": history, **{kind: curves / f"{kind}.csv" for kind in CURVES}}
    return Run(read_document(RunMetrics, document), {kind: pd.read_csv(path) for kind, path in tables.items()})


def together(runs: dict[str, Run]) -> dict[str, pd.DataFrame]:
    """Return each kind of table with the rows of all runs; the columns run and images (n) come first."""
    tables = {}
    for kind in ("history", *CURVES):
        parts = []
        for name, one in runs.items():
            n = one.document.n.train if kind == "history" else one.document.n.test
            facts = pd.DataFrame({"run": [figures.run_name(name)], "images": [n]})
            parts.append(facts.merge(one.tables[kind], how="cross"))
        tables[kind] = pd.concat(parts, ignore_index=True)
    return tables


def _balance(sheet: dict[str, Any]) -> Figure:
    counts = {label: facts["readable"] for label, facts in sheet["classes"].items()}
    return figures.class_balance(counts, figures.title("Images per class", "", sheet["n_readable"], sheet["source"]))


def _recall(run: str, recipe: Recipe, seen: Children) -> Figure:
    heading = figures.title("Recall, Down syndrome", run, None, seen.source)
    return recall_by_similarity(recipe, "down_syndrome", seen.step, heading)


def _alone(one: Run) -> dict[str, Figure]:
    """Return the figures that show one run."""
    document, training = one.document, one.document.training
    return {
        "curves": figures.curves(
            one.tables["history"],
            one.heading("Training", "train"),
            best_epoch=training.best_epoch,
            stopped_epoch=training.stopped_epoch,
        ),
        "confusion": figures.confusion(
            document.confusion_matrix.matrix, document.confusion_matrix.labels, one.heading("Test", "test")
        ),
        "operating_point": figures.operating_point(
            one.tables["operating_point"],
            document.operating_point.threshold,
            one.heading("Threshold, test", "test"),
        ),
    }


def _beside_each_other(runs: dict[str, Run]) -> dict[str, Figure]:
    """Return the figures that show several runs, all of the same test images."""
    first = next(iter(runs.values())).document
    base_rate = first.n.test_down_syndrome / first.n.test

    def curves(kind: str) -> dict[str, pd.DataFrame]:
        return {name: one.tables[kind] for name, one in runs.items()}

    def legend(metric: str) -> dict[str, str]:
        return {name: f"{figures.run_name(name)}: {one.document.metrics[metric].decimal}" for name, one in runs.items()}

    def heading(what: str) -> str:
        return figures.title(what, run="", n=first.n.test, source=first.source)

    return {
        "roc": figures.roc(curves("roc"), legend("auroc"), heading("ROC, test")),
        "precision_recall": figures.precision_recall(
            curves("pr"), legend("average_precision"), base_rate, heading("Precision and recall, test")
        ),
        "calibration": figures.calibration(curves("calibration"), legend("ece"), heading("Calibration, test")),
    }


if __name__ == "__main__":
    run(main)
