"""Compare: the paper's Table III beside our runs, the runs beside each other, the paper's claims one by one."""

from typing import Annotated

import typer

from faces.cli import InFile, InFolder, OutFile, run
from faces.evidence import metrics as measure
from faces.evidence.comparison import compare, to_frame
from faces.evidence.documents import RunMetrics, read_document
from faces.evidence.metrics import read_predictions
from faces.evidence.paper import load_paper
from faces.evidence.seeds import Seeds
from faces.files import write_atomically, write_json
from faces.params import load_params


def main(
    metrics: Annotated[InFolder, typer.Argument(help="folder with NAME.json for each run")],
    predictions: Annotated[InFolder, typer.Argument(help="folder with NAME.csv for each run")],
    paper: Annotated[InFile, typer.Argument(help="the paper's figures, paper.yaml")],
    seeds: Annotated[InFile, typer.Option(help="what stage seeds found")],
    out: Annotated[OutFile, typer.Option(help="where to write the comparison, without .json and .csv")],
    headline: Annotated[OutFile, typer.Option(help="where to write the few numbers of params.yaml's model")],
) -> None:
    """Write the comparison of the runs that params.yaml names to compare, as JSON and as a table, and the headline.

    metrics and predictions: folders with NAME.json and NAME.csv for each run.
    """
    params = load_params()
    reported = load_paper(paper)
    runs = {name: read_document(RunMetrics, metrics / f"{name}.json") for name in params.compared}
    scores = {name: read_predictions(predictions / f"{name}.csv") for name in params.compared}

    recipes = {name: params.runs[name].recipe for name in runs if params.runs[name].change is None}
    over_seeds = read_document(Seeds, seeds)

    comparison = compare(reported, runs, scores, recipes, over_seeds, params.evaluate)

    write_json(out.with_suffix(".json"), comparison.model_dump())
    model = read_document(RunMetrics, metrics / f"{params.model}.json")
    write_json(headline, {params.model: measure.headline(model)})
    table = to_frame(comparison).to_csv(index=False, lineterminator="\n")
    write_atomically(out.with_suffix(".csv"), table.encode())


if __name__ == "__main__":
    run(main)
