"""Score images with a trained model.

    python -m faces.predict PATH... [--model FOLDER] [--format csv|jsonl] [--output FILE] [-q] [-v]

A PATH is an image or a folder, which is searched with its subfolders. For each image there is one row: the
probability of Down syndrome and the decision at the model's own threshold, or why the file could not be read. Rows
are written as they come, as CSV or as one JSON object a line. The model's folder is all that is needed, in any working
directory. Exit status: 0 all images were read; 1 at least one was not, the others are done; 130 interrupted.

This is a research reproduction. It is not a diagnostic, and says so on stderr on every run.
"""

import csv
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from faces.cli import InFolder, InputError, OutFileOrDevice, printable, run
from faces.files import check_output
from faces.naming import LABELS
from faces.source.listing import SUFFIXES, list_folder, summary

if TYPE_CHECKING:
    from PIL.Image import Image

    from faces.images.align import Points

MODEL = Path(__file__).parents[1] / "models/runs/improved"
NOTICE = (
    "This is a research reproduction, not a diagnostic: it says nothing about a person. "
    "It must not be used to decide anything about anyone."
)


@dataclass(frozen=True)
class Prediction:
    """One image: the probability of Down syndrome and the decision, or the reason why there are none."""

    path: str
    probability: float | None
    decision: str | None
    error: str | None
    aligned: bool | None  # by the landmarks of a face; false: none was found, or the model aligns none
    threshold: float
    model_sha256: str


COLUMNS = [field.name for field in fields(Prediction)]


class Predictor:
    """A trained model with its own preprocessing and threshold, as its evaluation used them."""

    def __init__(self, folder: Path) -> None:
        """Read model.pt, run.json, threshold.json and detector.onnx of `folder`."""
        from faces.training.inference import face_detector, fastest_device, load_run, read_threshold

        trained = load_run(folder)
        self.source: str = trained.facts["source"]
        self.sha256: str = trained.facts["model_sha256"]
        self.threshold = read_threshold(folder, self.sha256)
        self.resize = trained.recipe.transforms.resize
        self.align = trained.recipe.transforms.align
        self.detector = face_detector(folder, trained)
        self.classifier = trained.classifier(fastest_device())
        self._own = threading.local()  # each thread's detector

    def predict(self, paths: Sequence[Path]) -> Iterator[list[Prediction]]:
        """Yield a prediction for each path, in their order, as many at a time as the network takes."""
        import torch

        from faces.images.decode import quiet

        size = self.classifier.batch_size
        with quiet(), ThreadPoolExecutor(os.cpu_count()) as pool:
            for batch in (paths[start : start + size] for start in range(0, len(paths), size)):
                found = list(pool.map(self._decode, batch))
                images = [one.pixels for one in found if isinstance(one, Seen)]
                scores = iter(self.classifier.predict_proba(torch.from_numpy(np.stack(images))) if images else ())
                yield [
                    self._scored(path, one, float(next(scores))) if isinstance(one, Seen) else self._failed(path, one)
                    for path, one in zip(batch, found, strict=True)
                ]

    def _decode(self, path: Path) -> "Seen | str":
        from faces.images import align
        from faces.images.decode import UnreadableError, read, to_array

        try:
            if path.exists() and not path.is_file():
                return "not a regular file"
            image = read(path, self.threshold.max_pixels)[1]
        except UnreadableError as error:
            return error.reason
        except OSError as error:  # a folder that may not be looked into
            return (error.strerror or "").lower()
        landmarks = self._landmarks(image)
        if landmarks is None or self.align is None:
            return Seen(to_array(image, self.resize), aligned=False)
        return Seen(align.to_array(image, self.resize, landmarks, self.align), aligned=True)

    def _landmarks(self, image: "Image") -> "Points | None":
        if self.align is None or self.detector is None:
            return None
        if not hasattr(self._own, "detector"):
            self._own.detector = self.detector.load()
        found: Points | None = self._own.detector.landmarks(image)
        return found

    def _scored(self, path: Path, seen: "Seen", probability: float) -> Prediction:
        decision = LABELS[probability >= self.threshold.value]
        return Prediction(str(path), probability, decision, None, seen.aligned, self.threshold.value, self.sha256)

    def _failed(self, path: Path, reason: str) -> Prediction:
        return Prediction(str(path), None, None, reason, None, self.threshold.value, self.sha256)


@dataclass(frozen=True)
class Seen:
    """What the network sees of an image: uint8 [3, resize, resize]; is its face aligned?"""

    pixels: NDArray[np.uint8]
    aligned: bool


def find_images(paths: Sequence[Path], note: Callable[[str], None]) -> list[Path]:
    """Return the files among `paths` and the images in the folders among them, each once, folders sorted.

    note: told how much else is in a folder. Errors: InputError for a folder without images.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)  # if it is missing, that is its own error
            continue
        listing = list_folder(path)
        left_out = f"left out {summary(listing.left_out)}" if listing.left_out else "it is empty"
        if not listing.images:
            raise InputError(f"{path} holds no images ({left_out}); their names end in {', '.join(SUFFIXES)}")
        if listing.left_out:
            note(f"{path}: {left_out}")
        found += [path / name for name in listing.images]
    return list(dict.fromkeys(found))


def as_text(predictions: Sequence[Prediction], format: str) -> bytes:
    """Return a line for each prediction; what is not valid Unicode in a file name is escaped."""
    rows = [asdict(prediction) for prediction in predictions]
    if format == "jsonl":
        return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    return _csv([list(row.values()) for row in rows])


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    return table.getvalue().encode(errors="backslashreplace")


def made_here(path: Path) -> bool:
    """Say whether a file is one that this command has written: it may write it again."""
    with path.open("rb") as file:
        start = file.readline(10_000)
    return start == _csv([COLUMNS]) or (start.startswith(b'{"path": ') and b'"model_sha256": ' in start)


def main(
    paths: Annotated[list[Path], typer.Argument(help="images, or folders of images")],
    model: Annotated[
        InFolder,
        typer.Option(help="folder with model.pt, run.json, threshold.json", show_default="models/runs/improved"),
    ] = MODEL,
    format: Annotated[Literal["csv", "jsonl"], typer.Option(help="of the output")] = "csv",
    output: Annotated[OutFileOrDevice | None, typer.Option(help="file to write instead of stdout")] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="no progress bar, no counts on stderr; the notice stays")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="name each image that is scored whole or cannot be read")
    ] = False,
) -> None:
    """Score images: probability of Down syndrome and decision, or why a file could not be read.

    Example: python -m faces.predict photographs --output scores.csv
    """
    print(NOTICE, file=sys.stderr)
    if output is not None:
        check_output(output, made_here)

    def note(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr)

    images = find_images(paths, note)

    from tqdm import tqdm

    predictor = Predictor(model)
    if predictor.source == "sample":
        print("The model was trained on drawn faces (data.source: sample): its answers mean nothing.", file=sys.stderr)
    if output is not None:
        output.resolve().parent.mkdir(parents=True, exist_ok=True)
    done = unread = whole = 0
    # the bar is for a terminal on which no rows appear
    no_bar = quiet or (output is None and sys.stdout.isatty())
    bar = tqdm(total=len(images), unit="image", disable=True if no_bar else None)
    try:
        with bar, output.open("wb") if output else nullcontext(sys.stdout.buffer) as file:  # links and devices, too
            if format == "csv":
                file.write(_csv([COLUMNS]))
                file.flush()  # a full disk is told before the work
            for batch in predictor.predict(images):
                file.write(as_text(batch, format))
                file.flush()
                done += len(batch)
                unread += sum(prediction.error is not None for prediction in batch)
                whole += sum(prediction.aligned is False for prediction in batch)
                bar.update(len(batch))
                for prediction in batch if verbose else ():
                    if prediction.error is not None:
                        bar.write(f"{printable(prediction.path)}: {prediction.error}", file=sys.stderr)
                    elif prediction.aligned is False and predictor.align is not None:
                        bar.write(f"{printable(prediction.path)}: no face was found, scored whole", file=sys.stderr)
    except KeyboardInterrupt:
        where = f"in {output}" if output else "written"
        print(f"interrupted: {done} of {len(images)} images are scored, their rows are {where}", file=sys.stderr)
        raise typer.Exit(130) from None
    if whole and predictor.align is not None:
        note(f"{whole} of {len(images)} were scored whole: no face was found; see the column aligned")
    if unread:
        note(f"{unread} of {len(images)} could not be read; see the column error")
        raise typer.Exit(1)


if __name__ == "__main__":
    run(main)
