"""Draw the figures for people: curves, confusion matrices, ROC, precision-recall, calibration, operating point."""

from pathlib import Path

import pandas as pd

from faces.cli import run
from faces.evidence.metrics import read_document
from faces.pages import plots
from faces.params import load_params


def main(metrics: Path, models: Path, curves: Path, out: Path) -> None:
    """Draw every trial, and the active run where it is not one of the trials."""
    trials = list(load_params().trials)
    documents = {name: read_document(metrics / "trials" / f"{name}.json") for name in trials}
    active = read_document(metrics / "active.json")
    if active["model_sha256"] not in {document["model_sha256"] for document in documents.values()}:
        documents["active"] = active
    histories = {name: pd.read_csv(models / name / "history.csv") for name in documents}
    points = {
        kind: {name: pd.read_csv(curves / name / f"{kind}.csv") for name in documents}
        for kind in ("roc", "pr", "calibration", "operating_point")
    }

    figures = {}
    for name, document in documents.items():
        facts, n = document["training"], document["n"]
        about = {"run": document["run"], "source": document["source"]}
        figures[f"curves_{name}"] = plots.curves(
            histories[name],
            plots.title("Training", n=n["train"], **about),
            best_epoch=facts["best_epoch"],
            stopped_epoch=facts["stopped_epoch"],
        )
        figures[f"confusion_{name}"] = plots.confusion(
            **document["confusion_matrix"], heading=plots.title("Test", n=n["test"], **about)
        )
        figures[f"operating_point_{name}"] = plots.operating_point(
            points["operating_point"][name],
            document["operating_point"]["threshold"],
            plots.title("Threshold, test", n=n["test"], **about),
        )

    n, source = active["n"], active["source"]

    def legend(metric: str) -> dict[str, str]:
        return {
            name: "{}: {value:.3f} ({low:.3f} to {high:.3f})".format(
                plots.run_name(document["run"]), **document["metrics"][metric]
            )
            for name, document in documents.items()
        }

    def heading(what: str) -> str:
        return plots.title(what, run="", n=n["test"], source=source)

    base_rate = n["test_down_syndrome"] / n["test"]
    figures["roc"] = plots.roc(points["roc"], legend("auroc"), heading("ROC, test"))
    figures["precision_recall"] = plots.precision_recall(
        points["pr"], legend("average_precision"), base_rate, heading("Precision and recall, test")
    )
    figures["calibration"] = plots.calibration(points["calibration"], legend("ece"), heading("Calibration, test"))

    for name, figure in figures.items():
        plots.save(figure, out / f"{name}.png")


if __name__ == "__main__":
    run(main)
