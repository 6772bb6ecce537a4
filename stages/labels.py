"""Find images that may carry the wrong label: by the held-out scores of all runs, and by the faces most like theirs."""

from typing import Annotated

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from faces.children.nearest import nearest, read_faces
from faces.cli import InFile, InFolder, InputError, OutFile, run
from faces.evidence.labels import held_out, summarise
from faces.evidence.metrics import read_predictions
from faces.files import write_json
from faces.params import load_params


def main(
    groups: Annotated[InFile, typer.Argument(help="each image's groups")],
    embeddings: Annotated[InFile, typer.Argument(help="the faces' embeddings")],
    landmarks: Annotated[InFile, typer.Argument(help="the faces' boxes and landmarks")],
    predictions: Annotated[InFolder, typer.Option(help="folder with NAME.csv for each run")],
    out: Annotated[OutFile, typer.Option(help="where to write the findings, as JSON")],
) -> None:
    """Join the scores that images got from models not trained on them with their faces and groups."""
    params = load_params()
    images, vectors = read_faces(groups, embeddings, landmarks)
    both_labels = images.label.groupby(images.children).transform("nunique") > 1
    has_face, label = images.has_face.to_numpy(), images.label.to_numpy()
    of_other = _of_other_class(vectors, label, has_face, images.duplicates.to_numpy(), params.labels.faces)
    known = pd.DataFrame(
        {"group": images.children, "both_labels": both_labels, "faces_of_other_class": of_other}, index=images.index
    )
    scores = held_out({name: read_predictions(predictions / f"{name}.csv") for name in params.runs})
    if not scores.index.isin(known.index).all():
        raise InputError(f"{predictions} has images that {groups} has not; run `dvc repro`")
    found = summarise(scores.join(known), params.data.kind, tuple(params.runs), params.labels.faces, params.evaluate)
    write_json(out, found.model_dump())


def _of_other_class(
    embeddings: NDArray[np.float32],
    label: NDArray[np.str_],
    has_face: NDArray[np.bool_],
    duplicates: NDArray[np.str_],
    faces: int,
) -> NDArray[np.float64]:
    """Return how many of the `faces` most similar faces carry the other label [N]; its own copies are not asked.

    NaN without a face, or where there are too few faces to ask.
    """
    asked = np.flatnonzero(has_face)
    most = int(pd.Series(duplicates[asked]).value_counts().max()) if len(asked) else 0
    _, rows = nearest(embeddings[asked], embeddings[asked], faces + most)
    answer = np.full(len(label), np.nan)
    for image, found in zip(asked, rows, strict=True):
        others = asked[found[found >= 0]]
        others = others[duplicates[others] != duplicates[image]][:faces]
        if len(others) == faces:
            answer[image] = (label[others] != label[image]).sum()
    return answer


if __name__ == "__main__":
    run(main)
