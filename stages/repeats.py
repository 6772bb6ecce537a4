"""Put each recipe's results on several splits together: spread, intervals, images always taken for the other class."""

from typing import Annotated

import typer

from faces.cli import InFolder, OutFile, run
from faces.evidence.documents import RunMetrics, read_document
from faces.evidence.metrics import read_predictions
from faces.evidence.repeats import repeated, summarise
from faces.files import write_json
from faces.params import load_params


def main(
    metrics: Annotated[InFolder, typer.Argument(help="folder with NAME.json for each run")],
    predictions: Annotated[InFolder, typer.Argument(help="folder with NAME.csv for each run")],
    out: Annotated[OutFile, typer.Argument(help="where to write the summary, as JSON")],
) -> None:
    """Summarise each recipe that params.yaml runs on several splits with the same seed.

    metrics and predictions: folders with NAME.json and NAME.csv for each run.
    """
    params = load_params()
    summaries = {}
    for recipe, runs in repeated(params.runs, params.splits).items():
        documents = {split: read_document(RunMetrics, metrics / f"{name}.json") for split, name in runs.items()}
        scores = {split: read_predictions(predictions / f"{name}.csv") for split, name in runs.items()}
        summaries[recipe] = summarise(documents, scores, params.evaluate.confidence).model_dump()
    write_json(out, summaries)


if __name__ == "__main__":
    run(main)
