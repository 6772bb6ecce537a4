"""Show where the active run looks: Grad-CAM averages, the occlusion check, and a gallery of the mistakes.

The averages show no person and go to Git; the gallery shows photographs and stays in the DVC cache.
"""

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer

from faces.cli import InFile, InFolder, InputError, OutFile, OutFolder, run
from faces.files import replaced, write_atomically, write_json
from faces.naming import LABELS
from faces.params import load_params

if TYPE_CHECKING:
    from faces.evidence.documents import Explained
    from faces.evidence.estimate import Estimate
    from faces.training.inference import TrainedRun

TEMPLATES = Path(__file__).parents[1] / "faces/pages/templates"
THRESHOLD = 0.5  # of the probability of Down syndrome, as in the metrics
Pixels = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def main(
    data: Annotated[InFolder, typer.Argument(help="folder of the images, one folder a class")],
    split: Annotated[InFile, typer.Argument(help="the file of the split that the active run was trained on")],
    *,
    landmarks: Annotated[InFile, typer.Option(help="the faces' landmarks, by which a recipe may align them")],
    model: Annotated[InFolder, typer.Option(help="folder with the active run's model.pt and run.json")],
    beside: Annotated[InFolder, typer.Option(help="the same of the run whose accuracy is set beside the active run's")],
    metrics: Annotated[OutFile, typer.Option(help="file for the figures")],
    plots: Annotated[OutFolder, typer.Option(help="folder for the pictures that show no person")],
    gallery: Annotated[OutFolder, typer.Option(help="folder for the test photographs and their maps")],
) -> None:
    """Explain the active run on the test subset."""
    confidence = load_params().evaluate.confidence
    test = pd.read_csv(split).query("subset == 'test'").sort_values("path", ignore_index=True)
    if set(test["y_true"]) != {0, 1}:
        raise InputError(f"{split}: the test subset lacks a class; raise split.test in params.yaml")

    from faces.evidence import explain
    from faces.evidence.documents import Explained, Heat, Occluded
    from faces.training import determinism
    from faces.training.inference import load_run

    determinism.enable()
    y_true = test["y_true"].to_numpy()
    active, other = load_run(model), load_run(beside)
    photos = _photos(active, data, test, landmarks)
    accuracy, y_score = occlusion(active, photos, y_true, confidence)
    maps = heat_maps(active, photos, y_score)
    middle = explain.middle_mask(maps.shape[-1])
    averages = {label: maps[y_true == index].mean(axis=0) for index, label in enumerate(LABELS)}
    beside_it: list[Occluded] = []
    if other.facts["split"] == active.facts["split"]:
        seen, _ = occlusion(other, _photos(other, data, test, landmarks), y_true, confidence)
        beside_it.append(Occluded(run=other.facts["run"], accuracy=seen))
    else:
        print(f"{beside} is left out: it may have been trained on the test images of {split}", file=sys.stderr)
    document = Explained(
        run=active.facts["run"],
        source=active.facts["source"],
        class_explained="the predicted one",
        middle_area=round(float(middle.mean()), 4),
        heat_in_middle={
            label: Heat(value=round(float(average[middle].sum()), 4), n=int((y_true == index).sum()))
            for index, (label, average) in enumerate(averages.items())
        },
        accuracy=accuracy,
        beside=tuple(beside_it),
    )

    write_json(metrics, document.model_dump())
    draw(plots, document, averages, middle, y_true)
    with replaced(gallery) as new:
        write_gallery(new, active.facts, test, photos, y_score, maps)


def _photos(trained: "TrainedRun", data: Path, test: pd.DataFrame, landmarks: Path) -> Pixels:
    from faces.images.align import read_landmarks
    from faces.images.decode import load

    transforms = trained.recipe.transforms
    points = read_landmarks(landmarks) if transforms.align else {}
    return load(data, test["path"].tolist(), transforms.resize, landmarks=points, share=transforms.align or 1.0)


def occlusion(
    trained: "TrainedRun", photos: Pixels, y_true: Labels, confidence: float
) -> tuple[dict[str, "Estimate"], Scores]:
    """Return the accuracy with each part of the pictures hidden, and the scores [N] with none hidden."""
    import torch

    from faces.evidence import explain
    from faces.evidence.estimate import Estimate
    from faces.training.inference import fastest_device

    parts: dict[str, explain.Hidden] = {
        "whole_picture": "nothing",
        "middle_hidden": "middle",
        "only_the_middle": "surroundings",
    }
    classifier, pixels = trained.classifier(fastest_device()), torch.from_numpy(photos)
    y_score = {
        name: classifier.predict_proba(pixels, change=partial(explain.hide, part=part)) for name, part in parts.items()
    }
    accuracy = {
        name: Estimate.proportion(int((y_true == (scores >= THRESHOLD)).sum()), len(y_true), confidence)
        for name, scores in y_score.items()
    }
    return accuracy, y_score["whole_picture"]


def heat_maps(trained: "TrainedRun", photos: Pixels, y_score: Scores) -> npt.NDArray[np.float32]:
    """Return each photograph's Grad-CAM map [N, S, S] for the class that the run predicts."""
    import torch

    from faces.evidence import explain
    from faces.training.inference import fastest_device
    from faces.training.recipe import evaluation_size
    from faces.training.transforms import resize

    device = fastest_device()
    images = resize(torch.from_numpy(photos), evaluation_size(trained.recipe.transforms)).to(device)
    return explain.grad_cam(trained.network.to(device), images, (y_score >= THRESHOLD).astype(np.int64))


def draw(
    folder: Path,
    document: "Explained",
    averages: dict[str, npt.NDArray[np.float32]],
    middle: npt.NDArray[np.bool_],
    y_true: Labels,
) -> None:
    """Draw each class's average map [S, S] and the accuracy with parts hidden."""
    from faces.pages import figures

    largest = max(float(average.max()) for average in averages.values())
    for index, (label, average) in enumerate(averages.items()):
        what = f"Average Grad-CAM, {figures.NAMES[label]}"
        heading = figures.title(what, document.run, int((y_true == index).sum()), document.source)
        figures.save(figures.heat_map(average, middle, heading, largest), folder / f"{label}.png")
    heading = figures.title("Occlusion", "", len(y_true), document.source)
    rows = {
        f"{figures.run_name(one.run)}, {name.replace('_', ' ')}": asdict(found)
        for one in (document, *document.beside)
        for name, found in one.accuracy.items()
    }
    figures.save(figures.intervals(rows, "test accuracy", heading), folder / "occlusion.png")


def write_gallery(
    folder: Path,
    facts: dict[str, Any],
    test: pd.DataFrame,
    photos: Pixels,
    y_score: Scores,
    maps: npt.NDArray[np.float32],
) -> None:
    """Write each test image with its map, and index.html with the mistakes first, the surest on top.

    photos [N, 3, R, R], y_score [N], maps [N, S, S], in the order of the rows of `test`.
    """
    import jinja2
    from PIL import Image

    from faces.evidence.explain import overlay
    from faces.pages.figures import run_name

    rows = []
    for i, (path, label, y_true) in enumerate(test[["path", "label", "y_true"]].itertuples(index=False)):
        heat = np.asarray(Image.fromarray(maps[i]).resize(photos.shape[2:], Image.Resampling.BILINEAR))
        names = {"photo": f"{path}.photo.jpg", "map": f"{path}.map.jpg"}
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photos[i].transpose(1, 2, 0)).save(folder / names["photo"], quality=85)
        Image.fromarray(overlay(photos[i], heat)).save(folder / names["map"], quality=85)
        sure = y_score[i] if y_true == 0 else 1 - y_score[i]  # probability of the wrong class
        wrong = (y_score[i] >= THRESHOLD) != y_true
        rows.append({"path": path, "label": label, "y_score": y_score[i], "sure": sure, "wrong": wrong, **names})
    rows.sort(key=lambda row: (-row["sure"], row["path"]))
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = env.get_template("gallery.html").render(
        run=run_name(facts["run"]),
        source=facts["source"],
        wrong=[row for row in rows if row["wrong"]],
        right=[row for row in rows if not row["wrong"]],
    )
    write_atomically(folder / "index.html", page.encode())


if __name__ == "__main__":
    run(main)
