"""Score validation and test images with a trained run, and measure how well it does."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faces.cli import ChangedFolder, InFile, InFolder, InputError, OutFile, OutFolder, run
from faces.files import write_atomically, write_json
from faces.params import load_params

if TYPE_CHECKING:
    import pandas as pd

    from faces.training.inference import TrainedRun


def main(
    name: Annotated[str, typer.Argument(metavar="RUN", help="one of params.yaml's runs, or active")],
    data: Annotated[InFolder, typer.Argument(help="folder of the images, one folder a class")],
    split: Annotated[InFile, typer.Argument(help="the file of the split that the run was trained on")],
    *,
    landmarks: Annotated[InFile, typer.Option(help="the faces' landmarks, by which a recipe may align them")],
    model: Annotated[ChangedFolder, typer.Option(help="folder with model.pt and run.json; threshold.json is added")],
    predictions: Annotated[OutFile, typer.Option(help="file for path, subset, y_true and y_score of each image")],
    metrics: Annotated[OutFile, typer.Option(help="file for the metrics")],
    curves: Annotated[OutFolder, typer.Option(help="folder for the curves to plot")],
    headline: Annotated[OutFile | None, typer.Option(help="also write the few numbers that stand for the run")] = None,
) -> None:
    """Write predictions, the metrics and curves made from them, and the threshold that they set."""
    params = load_params()

    from faces.evidence import metrics as measure
    from faces.training import determinism
    from faces.training.inference import Threshold, load_run

    determinism.enable()
    trained = load_run(model)
    if (trained.facts["run"], trained.facts["split"]) != (name, split.stem):
        raise InputError(f"{model / 'run.json'} is not of the run {name} on the split {split.stem}; run `dvc repro`")
    scored = score(trained, data, split, landmarks)

    document = measure.evaluate_predictions(scored, params.evaluate, trained.facts)
    y_true, y_score = measure.subset(scored, "validation")
    chosen = Threshold(
        value=measure.threshold_for_recall(y_true, y_score, params.evaluate.recall),
        target_recall=params.evaluate.recall,
        n=int(y_true.sum()),
        max_pixels=params.audit.max_pixels,
        model_sha256=trained.facts["model_sha256"],
    )
    write_atomically(predictions, scored.to_csv(index=False, lineterminator="\n").encode())
    write_json(metrics, document.model_dump())
    write_json(model / "threshold.json", chosen.model_dump())
    if headline is not None:
        write_json(headline, measure.headline(document))
    for stem, curve in measure.curves(scored, params.evaluate.confidence).items():
        write_atomically(curves / f"{stem}.csv", curve.to_csv(index=False, lineterminator="\n").encode())


def score(trained: "TrainedRun", data: Path, split: Path, landmarks: Path) -> "pd.DataFrame":
    """Return a row for each test and validation image: path, subset, y_true, y_score."""
    import pandas as pd

    from faces.images.align import read_landmarks
    from faces.training.features import load_subset
    from faces.training.inference import fastest_device

    classifier = trained.classifier(fastest_device())
    table = pd.read_csv(split)
    points = read_landmarks(landmarks)
    parts = []
    for subset in ("test", "validation"):
        rows = table[table["subset"] == subset].sort_values("path")
        if rows.empty:
            raise InputError(f"{split}: the {subset} subset is empty; there are too few images")
        images = load_subset(data, rows, subset, trained.recipe.transforms, points)
        y_score = classifier.predict_proba(images.pixels)
        parts.append(rows[["path", "subset", "y_true"]].assign(y_score=y_score))
    return pd.concat(parts)


if __name__ == "__main__":
    run(main)
