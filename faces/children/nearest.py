"""The faces most like a face, found with the index that finds duplicates."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from faces.children.groups import PROBES, Floats, Ints
from faces.cli import InputError
from faces.images.duplicates import cosine_index

DIGITS = 3  # of a similarity that is kept: processors differ in the fourth


def read_faces(groups: Path, embeddings: Path, landmarks: Path) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """Return what the stages group and embed wrote of N images: a table by path, and the embeddings [N, D].

    The table has each image's groups, its class (label), and has_face. Errors: InputError if they are of other images.
    """
    images, places = pd.read_csv(groups, keep_default_na=False, index_col="path"), pd.read_csv(landmarks)
    if places.path.tolist() != images.index.tolist():
        raise InputError(f"{landmarks} is of other images than {groups}; run `dvc repro`")
    label = places.path.str.partition("/")[0].to_numpy()
    return images.assign(label=label, has_face=(places.faces > 0).to_numpy()), np.load(embeddings)


def nearest(among: NDArray[np.float32], faces: NDArray[np.float32], k: int) -> tuple[Floats, Ints]:
    """Return the k embeddings of `among` [M, D] most like each of `faces` [N, D]: similarity and row, both [N, k].

    Exact up to 10,000 faces. Where there are fewer than k, similarity is NaN and the row -1.
    """
    if not len(among) or not len(faces):
        return np.full((len(faces), k), np.nan), np.full((len(faces), k), -1)
    similarity, row = cosine_index(among, PROBES).search(faces, k)
    return np.where(row < 0, np.nan, similarity.astype(np.float64).round(DIGITS)), row


def nearest_trained(
    embeddings: NDArray[np.float32], label: NDArray[np.str_], trained: NDArray[np.bool_], has_face: NDArray[np.bool_]
) -> Floats:
    """Return each image's similarity to the most similar training face of its own class [N], rounded to DIGITS.

    embeddings [N, D], class label [N], and whether it is trained on and has a face [N]. NaN where the image has no
    face or is trained on itself.
    """
    similarity = np.full(len(label), np.nan)
    for name in np.unique(label):
        mine = has_face & (label == name)
        asked = mine & ~trained
        similarity[asked] = nearest(embeddings[mine & trained], embeddings[asked], 1)[0][:, 0]
    return similarity
