"""Compare: the paper's Table III beside our trials, the trials beside each other, the paper's claims one by one."""

from pathlib import Path

from faces.cli import run
from faces.evidence.comparison import compare, markdown, table
from faces.evidence.metrics import read_document, read_predictions
from faces.evidence.paper import load_paper
from faces.files import write_atomically, write_json
from faces.params import load_params


def main(trials: Path, predictions: Path, paper: Path, report: Path, rows: Path, page: Path) -> None:
    """Write the comparison as JSON (report), CSV (rows) and Markdown (page).

    trials and predictions: folders with NAME.json and NAME.csv for each NAME of params.yaml: trials.
    """
    params = load_params()
    reported = load_paper(paper)
    documents = {name: read_document(trials / f"{name}.json") for name in params.trials}
    scores = {name: read_predictions(predictions / f"{name}.csv") for name in params.trials}

    comparison = compare(reported, documents, scores, params.evaluate)

    write_json(report, comparison)
    write_atomically(rows, table(comparison, documents).to_csv(index=False, lineterminator="\n").encode())
    write_atomically(page, markdown(comparison, reported).encode())


if __name__ == "__main__":
    run(main)
