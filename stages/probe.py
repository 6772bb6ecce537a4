"""Ask how much of the accuracy could come from shortcuts: models that see no face, beside those that do."""

from typing import Annotated

import numpy as np
import pandas as pd
import typer

from faces.cli import InFile, InFolder, OutFile, run
from faces.evidence import probes
from faces.evidence.documents import Probe, Probes, RunMetrics, read_document
from faces.evidence.metrics import read_predictions
from faces.files import write_atomically, write_json
from faces.images.align import read_landmarks
from faces.params import load_params


def main(
    data: Annotated[InFolder, typer.Argument(help="folder of the images, one folder a class")],
    images: Annotated[InFile, typer.Argument(help="the audit's table of images")],
    split: Annotated[InFile, typer.Argument(help="the file of the split on which runs are compared")],
    landmarks: Annotated[InFile, typer.Option(help="the faces' landmarks, by which a recipe may align them")],
    metrics: Annotated[InFolder, typer.Option(help="folder with NAME.json for each run")],
    predictions: Annotated[InFolder, typer.Option(help="folder with NAME.csv for each run")],
    out: Annotated[OutFile, typer.Option(help="where to write the accuracies, as JSON")],
    scores: Annotated[OutFile, typer.Option(help="where to write the strongest probe's scores, as CSV")],
) -> None:
    """Write each probe's cross-validated accuracy, on all images and on the test subset, beside the compared runs'."""
    params = load_params()
    runs = {name: read_document(RunMetrics, metrics / f"{name}.json") for name in params.compared}
    answers = {name: read_predictions(predictions / f"{name}.csv") for name in params.compared}
    table = pd.read_csv(images, keep_default_na=False)
    subset = pd.read_csv(split, keep_default_na=False)[["path", "subset"]]
    table = table[table.readable == 1].merge(subset, on="path", validate="one_to_one").sort_values("path")
    tests = (table.subset == "test").to_numpy()
    y_true = table.y_true.to_numpy()

    views = probes.describe(data, table)
    shares = [run.training.recipe["transforms"]["align"] for run in runs.values()]
    if share := next(filter(None, shares), None):
        views |= probes.describe_aligned(data, list(table.path), read_landmarks(landmarks), share)
    fold = probes.folds(y_true, list(table.group), params.probe.folds, params.probe.seed)
    found = {
        (view, model): probes.out_of_fold(numbers, y_true, fold, model, params.probe.seed)
        for view, numbers in views.items()
        for model in probes.MODELS
    }
    right = np.stack([(score >= 0.5) == (y_true == 1) for score in found.values()], axis=1)
    settings = (params.evaluate.confidence, params.evaluate.resamples, params.probe.seed)
    on_all = probes.accuracies(right, list(table.group), *settings)
    on_test = probes.accuracies(right[tests], list(table.group[tests]), *settings)
    strongest_right = pd.Series(right[:, list(found).index(probes.STRONGEST)], index=table["path"])
    document = Probes(
        source=params.data.kind,
        n=len(table),
        folds=params.probe.folds,
        seed=params.probe.seed,
        confidence=params.evaluate.confidence,
        guessing=round(float(np.bincount(y_true).max() / len(y_true)), 6),
        probes=tuple(
            Probe(sees=view, model=model, accuracy=accuracy, accuracy_on_test=accuracy_on_test)
            for (view, model), accuracy, accuracy_on_test in zip(found, on_all, on_test, strict=True)
        ),
        runs={
            name: probes.beside(runs[name], answers[name], strongest_right, params.evaluate.confidence) for name in runs
        },
    )

    write_json(out, document.model_dump())
    rows = table[["path", "y_true"]].assign(y_score=found[probes.STRONGEST])
    write_atomically(scores, rows.to_csv(index=False, lineterminator="\n", float_format="%.6f").encode())


if __name__ == "__main__":
    run(main)
