"""Ask how much of the accuracy is a child seen in training: recall by the nearest training face, splits by children."""

from typing import Annotated

import pandas as pd
import typer

from faces.children.nearest import nearest_trained, read_faces
from faces.cli import InFile, InFolder, InputError, OutFile, run
from faces.evidence.children import STEP, Children, runs_by_kind, summarise
from faces.evidence.metrics import read_predictions
from faces.files import write_json
from faces.params import load_params

SETTINGS = ("children", "strict")


def main(
    groups: Annotated[InFile, typer.Argument(help="each image's groups")],
    embeddings: Annotated[InFile, typer.Argument(help="the faces' embeddings")],
    landmarks: Annotated[InFile, typer.Argument(help="the faces' boxes and landmarks")],
    splits: Annotated[InFolder, typer.Option(help="folder with NAME.csv for each split")],
    predictions: Annotated[InFolder, typer.Option(help="folder with NAME.csv for each run")],
    out: Annotated[OutFile, typer.Option(help="where to write the findings, as JSON")],
) -> None:
    """Summarise each recipe that params.yaml runs on several comparable splits."""
    params = load_params()
    images, vectors = read_faces(groups, embeddings, landmarks)
    has_face, label = images.has_face.to_numpy(), images.label.to_numpy()

    def held_out(name: str) -> pd.DataFrame:
        rows = read_predictions(predictions / f"{name}.csv")
        table = pd.read_csv(splits / f"{params.runs[name].split}.csv", index_col="path")
        trained = (table.subset.reindex(images.index) == "train").to_numpy()
        known = images.assign(nearest=nearest_trained(vectors, label, trained, has_face))
        for setting in SETTINGS:
            known[f"seen_{setting}"] = images[setting].isin(images[setting][trained])
        missing = rows.path[~rows.path.isin(images.index)]
        if len(missing):
            raise InputError(f"{predictions / name}.csv has {missing.iloc[0]}, {groups} has not; run `dvc repro`")
        return rows.join(known[["nearest", *(f"seen_{setting}" for setting in SETTINGS)]], on="path")

    recipes = {}
    for recipe, kinds in runs_by_kind(params.runs, params.splits).items():
        rows = {name: held_out(name) for by_seed in kinds.values() for name in by_seed.values()}
        group = images.rename(columns={"children": "group"})
        recipes[recipe] = summarise(kinds, rows, group, SETTINGS, params.evaluate)
    found = Children(
        source=params.data.kind,
        confidence=params.evaluate.confidence,
        n=len(images),
        without_a_face=int((~has_face).sum()),
        step=STEP,
        recipes=recipes,
    )
    write_json(out, found.model_dump())


if __name__ == "__main__":
    run(main)
