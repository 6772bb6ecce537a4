"""Find the largest face of every image and embed it: biometric data of children, which stays in DVC's cache."""

import io
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from tqdm import tqdm

from faces.children.networks import WIDTH, Face, Faces
from faces.cli import InFile, InFolder, InputError, OutFile, run
from faces.files import write_atomically, write_json
from faces.images import decode
from faces.images.align import COLUMNS as LANDMARKS
from faces.images.yunet import BOX
from faces.naming import LABELS
from faces.params import Embed, load_params

CHUNK = 1024  # images whose answers wait at once
LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 1.0)


def main(
    data: Annotated[InFolder, typer.Argument(help="folder of the images, one folder a class")],
    images: Annotated[InFile, typer.Argument(help="the audit's table of images")],
    networks: Annotated[InFolder, typer.Argument(help="folder with the networks that find and embed faces")],
    embeddings: Annotated[OutFile, typer.Option(help="where to write embeddings [N, 128], float32; no face: zeros")],
    landmarks: Annotated[OutFile, typer.Option(help="where to write boxes and landmarks, one row an image, as CSV")],
    facts: Annotated[OutFile, typer.Option(help="where to write the counts, as JSON")],
) -> None:
    """Write one row for each readable image, in the order of their paths; its face is the largest one found."""
    params = load_params()
    table = pd.read_csv(images, keep_default_na=False)
    paths = sorted(table.path[table.readable == 1])
    looked_for = params.networks.source != "none"

    vectors = np.zeros((len(paths), WIDTH), np.float32)
    rows: list[dict[str, Any]] = []
    answers = _faces(data, paths, networks, params.embed) if looked_for else ((None, 0) for _ in paths)
    for number, (path, (face, found)) in enumerate(zip(paths, answers, strict=True)):
        row: dict[str, Any] = {"path": path, "faces": found}
        if face is not None:
            vectors[number] = face.embedding
            row |= {"score": face.score, **dict(zip(BOX + LANDMARKS, face.box + face.landmarks, strict=True))}
        rows.append(row)

    places = pd.DataFrame(rows, columns=["path", "faces", "score", *BOX, *LANDMARKS])
    content = io.BytesIO()
    np.save(content, vectors)
    write_atomically(embeddings, content.getbuffer())
    write_atomically(landmarks, places.to_csv(index=False, lineterminator="\n").encode())
    write_json(facts, {"source": params.data.kind, "looked_for": looked_for, **_counts(places)})


def _faces(data: Path, paths: Sequence[str], networks: Path, wanted: Embed) -> Iterator[tuple[Face | None, int]]:
    """Yield each image's largest face and how many there are; the number of threads does not change them."""
    cv2.setNumThreads(1)  # a thread an image instead
    mine = threading.local()

    def find(path: str) -> tuple[Face | None, int]:
        if not hasattr(mine, "faces"):
            mine.faces = Faces(networks, wanted.score, wanted.longest_side)
        try:
            _, image = decode.read(data / path, max_pixels=sys.maxsize)
        except decode.UnreadableError as error:
            raise InputError(f"{data / path}: {error.reason}; run the audit again") from None
        answer: tuple[Face | None, int] = mine.faces.largest(image)
        return answer

    progress = tqdm(total=len(paths), desc="embed", unit="image", disable=None)
    with decode.quiet(), ThreadPoolExecutor(os.cpu_count()) as pool, progress:
        for start in range(0, len(paths), CHUNK):
            for answer in pool.map(find, paths[start : start + CHUNK]):
                progress.update()
                yield answer


def _counts(places: pd.DataFrame) -> dict[str, Any]:
    label = places.path.str.partition("/")[0]
    return {
        "n": len(places),
        "classes": {
            name: {
                "n": len(rows),
                "with_a_face": int((rows.faces > 0).sum()),
                "with_several": int((rows.faces > 1).sum()),
                "score": _quantiles(rows.score.dropna().to_numpy()),
            }
            for name in LABELS
            for rows in [places[label == name]]
        },
        "taken_of_several": "the largest",
        "several_faces": places.path[places.faces > 1].tolist(),
        "no_face": places.path[places.faces == 0].tolist(),
    }


def _quantiles(scores: NDArray[np.float64]) -> dict[str, float]:
    return {f"{level:.0%}": round(float(np.quantile(scores, level)), 4) for level in LEVELS} if len(scores) else {}


if __name__ == "__main__":
    run(main)
