"""Score images with a trained model.

    python -m faces.predict PATH... [--model models/active] [--format csv|json] [--output FILE] [--batch-size 64]

A PATH is an image or a folder, which is searched with its subfolders. For each image: the probability of Down
syndrome, the decision at the operating point that the model's metrics chose on the validation subset, or why the
file could not be read. Exit status: 0 all images were read, 1 at least one was not (the others are done).

This is a research reproduction. It is not a diagnostic, and says so on stderr on every run.
"""

import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from faces.cli import InputError, run
from faces.evidence.documents import RunMetrics, read_document
from faces.files import file_sha256, write_atomically
from faces.images.decode import UnreadableError, quiet, read, to_array
from faces.naming import LABELS, SUFFIXES, like_image
from faces.params import Recipe, Transforms, load_params

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


class Predictor:
    """A trained model with its own preprocessing and operating point, as evaluation uses them."""

    def __init__(self, folder: Path, metrics: Path) -> None:
        """Read model.pt and run.json of `folder`, and the operating point of `metrics`, which must be its own."""
        import torch

        from faces.training.model import Body, Tail, load_model

        facts = _read_facts(folder)
        self.sha256 = file_sha256(folder / "model.pt")
        document = read_document(RunMetrics, metrics)
        for file, sha256 in ((folder / "run.json", facts["model_sha256"]), (metrics, document.model_sha256)):
            if sha256 != self.sha256:
                raise InputError(f"{file} is about another model than {folder / 'model.pt'}; run `dvc repro`")
        self.source: str = facts["source"]
        self.threshold = document.operating_point.threshold
        self.transforms = Transforms.model_validate(facts["transforms"])
        recipe = Recipe.model_validate(facts["recipe"])
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = load_model(folder / "model.pt")
        self.body = Body(network, recipe.freeze, recipe.precision).to(self.device)
        self.tail = Tail(network, recipe.freeze, recipe.precision).to(self.device).eval()

    def score(self, images: np.ndarray[Any, np.dtype[np.uint8]]) -> list[float]:
        """Return the probability of Down syndrome of images uint8 [N, 3, resize, resize]."""
        import torch

        from faces.training.transforms import crop, whole

        views = []
        for mirrored in self.transforms.evaluation_views:
            boxes, flips = whole(len(images), self.transforms, mirrored)
            inputs = crop(torch.from_numpy(images), boxes, flips, size=self.transforms.evaluation_size)
            with torch.inference_mode():
                logits = self.tail(self.body(inputs.to(self.device)))  # [N, 2]
            views.append(logits.double().softmax(dim=1)[:, 1])
        return [round(p, 6) for p in torch.stack(views).mean(dim=0).tolist()]

    def predict(self, paths: Sequence[Path], max_pixels: int, batch_size: int) -> Iterator[Prediction]:
        """Yield a prediction for each path, in their order."""

        def decoded(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]] | str:
            try:
                return to_array(read(path, max_pixels)[1], self.transforms.resize)
            except UnreadableError as error:
                return error.reason

        with quiet(), ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(paths), batch_size):
                batch = paths[start : start + batch_size]
                found = list(pool.map(decoded, batch))
                images = [image for image in found if not isinstance(image, str)]
                scores = iter(self.score(np.stack(images)) if images else [])
                for path, image in zip(batch, found, strict=True):
                    if isinstance(image, str):
                        yield Prediction(str(path), None, None, image)
                    else:
                        probability = next(scores)
                        decision = LABELS[probability >= self.threshold]
                        yield Prediction(str(path), probability, decision, None)


def _read_facts(folder: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        missing = {"source", "recipe", "transforms", "model_sha256"} - facts.keys()
        if not missing:  # a record that an older version wrote may lack a hyperparameter
            Recipe.model_validate(facts["recipe"])
            Transforms.model_validate(facts["transforms"])
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds no trained model (model.pt, run.json); run `dvc repro`, or `dvc pull`"
        ) from None
    except (ValueError, AttributeError):
        raise InputError(f"{folder / 'run.json'} is not a run's record; run `dvc repro` to write it again") from None
    if missing or not (folder / "model.pt").is_file():
        raise InputError(f"{folder} lacks {', '.join(sorted(missing)) or 'model.pt'}; run `dvc repro`, or `dvc pull`")
    return facts


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the files among `paths` and the images in the folders among them, each once, folders sorted."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if like_image(p.name) and p.is_file())
            if not inside:
                raise InputError(f"{path} holds no images; their names end in {', '.join(SUFFIXES)}")
            found += inside
        else:
            found.append(path)  # if it is missing, that is its own error
    return list(dict.fromkeys(found))


def as_csv(predictions: Sequence[Prediction], predictor: Predictor) -> str:
    """Return a table with a line for each image, each with the threshold and the model's SHA-256."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*(field.name for field in fields(Prediction)), "threshold", "model_sha256"])
    writer.writerows([*asdict(p).values(), predictor.threshold, predictor.sha256] for p in predictions)
    return table.getvalue()


def as_json(predictions: Sequence[Prediction], predictor: Predictor) -> str:
    """Return one object: the notice, the model, its threshold and the predictions."""
    document = {
        "notice": NOTICE,
        "model_sha256": predictor.sha256,
        "source": predictor.source,
        "threshold": predictor.threshold,
        "predictions": [asdict(prediction) for prediction in predictions],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def main(
    paths: Annotated[list[Path], typer.Argument(help="images, or folders of images")],
    model: Annotated[Path, typer.Option(help="folder with model.pt and run.json")] = Path("models/active"),
    metrics: Annotated[Path | None, typer.Option(help="the model's metrics, which hold its operating point")] = None,
    format: Annotated[Literal["csv", "json"], typer.Option(help="of the output")] = "csv",
    output: Annotated[Path | None, typer.Option(help="file to write instead of stdout")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="images scored at once")] = 64,
) -> None:
    """Score images: probability of Down syndrome and decision, or why a file could not be read."""
    print(NOTICE, file=sys.stderr)
    from tqdm import tqdm

    max_pixels = load_params().audit.max_pixels
    own = Path("metrics", "active.json") if model.name == "active" else Path("metrics", "trials", f"{model.name}.json")
    predictor = Predictor(model, metrics or own)
    if predictor.source == "sample":
        print("The model was trained on drawn faces (data.source: sample): its answers mean nothing.", file=sys.stderr)
    images = find_images(paths)
    scored = predictor.predict(images, max_pixels, batch_size)
    predictions = list(tqdm(scored, total=len(images), unit="image", disable=None))  # silent but on a terminal
    text = (as_csv if format == "csv" else as_json)(predictions, predictor)
    content = text.encode(errors="backslashreplace")  # of file names that are not valid Unicode
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        write_atomically(output, content)
    unread = sum(prediction.error is not None for prediction in predictions)
    if unread:
        print(f"{unread} of {len(images)} could not be read; see the column error", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    run(main)
