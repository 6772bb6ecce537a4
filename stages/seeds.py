"""Put the runs of each recipe that differ in their seed alone together: what one run is worth, and what a recipe is."""

from typing import Annotated

import typer

from faces.cli import InFolder, OutFile, run
from faces.evidence.documents import RunMetrics, read_document
from faces.evidence.metrics import read_predictions
from faces.evidence.seeds import repeated, summarise
from faces.files import write_json
from faces.params import load_params


def main(
    metrics: Annotated[InFolder, typer.Argument(help="folder with NAME.json for each run")],
    predictions: Annotated[InFolder, typer.Argument(help="folder with NAME.csv for each run")],
    out: Annotated[OutFile, typer.Argument(help="where to write the summary, as JSON")],
) -> None:
    """Summarise each recipe that params.yaml runs with several seeds on the split that is compared.

    metrics and predictions: folders with NAME.json and NAME.csv for each run.
    """
    params = load_params()
    split = params.compare.split
    names = repeated(params.runs, split)
    runs = [name for seeds in names.values() for name in seeds.values()]
    documents = {name: read_document(RunMetrics, metrics / f"{name}.json") for name in runs}
    scores = {name: read_predictions(predictions / f"{name}.csv") for name in runs}
    summary = summarise(names, documents, scores, split, params.data.kind, params.evaluate)
    write_json(out, summary.model_dump())


if __name__ == "__main__":
    run(main)
