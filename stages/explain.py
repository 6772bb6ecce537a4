"""Show where the active run looks: Grad-CAM averages, the occlusion check, and a gallery of the mistakes.

The averages show no person and go to Git; the gallery shows photographs and stays in the DVC cache.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer

from faces.cli import InputError, run
from faces.files import write_atomically, write_json
from faces.naming import LABELS
from faces.params import Transforms, load_params

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

TEMPLATES = Path(__file__).parents[1] / "faces/pages/templates"


def main(
    data: Path,
    splits: Path,
    model: Path,
    out_metrics: Path,
    out_plots: Path,
    out_gallery: Path,
    beside: Annotated[list[Path] | None, typer.Option(help="another run's model, for the occlusion check only")] = None,
) -> None:
    """Explain the active run on the test subset."""
    confidence = load_params().evaluate.confidence
    facts = json.loads((model / "run.json").read_text(encoding="utf-8"))
    transforms = Transforms.model_validate(facts["transforms"])
    test = pd.read_csv(splits).query("subset == 'test'").sort_values("path", ignore_index=True)
    if set(test["y_true"]) != {0, 1}:
        raise InputError(f"{splits}: the test subset lacks a class; raise split.test in params.yaml")

    import torch

    from faces.evidence import explain
    from faces.images.decode import load
    from faces.pages import figures
    from faces.training import determinism
    from faces.training.model import load_model
    from faces.training.transforms import center

    determinism.enable()
    y_true = test["y_true"].to_numpy()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    network = load_model(model / "model.pt").to(device)
    photos = load(data, test["path"].tolist(), transforms.resize)
    images = center(torch.from_numpy(photos), transforms).to(device)
    logits, maps = explain.grad_cam(network, images)

    middle = explain.middle_mask(transforms.evaluation_size)
    averages = {label: maps[y_true == index].mean(axis=0) for index, label in enumerate(LABELS)}
    accuracy = _occlusion(network, images, y_true, transforms.evaluation_views, confidence)
    others = [_beside(folder, data, test, device, confidence) for folder in beside or []]
    metrics = {
        "run": facts["run"],
        "source": facts["source"],
        "class_explained": "the predicted one",
        "middle_area": round(float(middle.mean()), 4),
        "heat_in_middle": {
            label: {"value": round(float(average[middle].sum()), 4), "n": int((y_true == index).sum())}
            for index, (label, average) in enumerate(averages.items())
        },
        "accuracy": accuracy,
        "beside": others,
    }

    write_json(out_metrics, metrics)
    largest = max(float(average.max()) for average in averages.values())
    for index, (label, average) in enumerate(averages.items()):
        what = f"Average Grad-CAM, {figures.NAMES[label]}"
        heading = figures.title(what, facts["run"], int((y_true == index).sum()), facts["source"])
        figures.save(figures.heat_map(average, middle, heading, largest), out_plots / f"{label}.png")
    heading = figures.title("Occlusion", "", len(test), facts["source"])
    rows = {
        f"{figures.run_name(one['run'])}, {name.replace('_', ' ')}": row
        for one in (metrics, *others)
        for name, row in one["accuracy"].items()
    }
    figures.save(figures.intervals(rows, "test accuracy", heading), out_plots / "occlusion.png")
    write_gallery(out_gallery, facts, test, photos, logits, maps)


def _occlusion(
    network: "nn.Module", images: "Tensor", y_true: npt.NDArray[np.int64], views: tuple[bool, ...], confidence: float
) -> dict[str, dict[str, Any]]:
    from faces.evidence import explain

    seen: dict[str, explain.Hidden] = {
        "whole_picture": "nothing",
        "middle_hidden": "middle",
        "only_the_middle": "surroundings",
    }
    return {
        name: _accuracy(y_true, explain.predict(network, explain.hide(images, hidden), views), confidence)
        for name, hidden in seen.items()
    }


def _beside(model: Path, data: Path, test: pd.DataFrame, device: "torch.device", confidence: float) -> dict[str, Any]:
    import torch

    from faces.images.decode import load
    from faces.training.model import load_model
    from faces.training.transforms import center

    facts = json.loads((model / "run.json").read_text(encoding="utf-8"))
    transforms = Transforms.model_validate(facts["transforms"])
    photos = torch.from_numpy(load(data, test["path"].tolist(), transforms.resize))
    accuracy = _occlusion(
        load_model(model / "model.pt").to(device),
        center(photos, transforms).to(device),
        test["y_true"].to_numpy(),
        transforms.evaluation_views,
        confidence,
    )
    return {"run": facts["run"], "accuracy": accuracy}


def _accuracy(y_true: npt.NDArray[np.int64], y_pred: npt.NDArray[np.int64], confidence: float) -> dict[str, Any]:
    from faces.evidence.estimate import Estimate

    return asdict(Estimate.proportion(int((y_true == y_pred).sum()), len(y_true), confidence))


def write_gallery(
    folder: Path,
    facts: dict[str, Any],
    test: pd.DataFrame,
    photos: npt.NDArray[np.uint8],
    logits: npt.NDArray[np.float32],
    maps: npt.NDArray[np.float32],
) -> None:
    """Write each test image with its map, and index.html with the mistakes first, the surest on top.

    photos [N, 3, R, R], logits [N, 2], maps [N, S, S], in the order of the rows of `test`.
    """
    import jinja2
    from PIL import Image

    from faces.evidence.explain import overlay
    from faces.pages.figures import run_name

    y_score = 1 / (1 + np.exp(logits[:, 0].astype(np.float64) - logits[:, 1]))
    rows = []
    for i, (path, label, y_true) in enumerate(test[["path", "label", "y_true"]].itertuples(index=False)):
        heat = np.asarray(Image.fromarray(maps[i]).resize(photos.shape[2:], Image.Resampling.BILINEAR))
        names = {"photo": f"{path}.photo.jpg", "map": f"{path}.map.jpg"}
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photos[i].transpose(1, 2, 0)).save(folder / names["photo"], quality=85)
        Image.fromarray(overlay(photos[i], heat)).save(folder / names["map"], quality=85)
        sure = y_score[i] if y_true == 0 else 1 - y_score[i]  # probability of the wrong class
        rows.append({"path": path, "label": label, "y_score": y_score[i], "sure": sure, **names})
    rows.sort(key=lambda row: (-row["sure"], row["path"]))
    wrong = [row for row in rows if row["sure"] > 0.5]
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = env.get_template("gallery.html").render(
        run=run_name(facts["run"]), source=facts["source"], wrong=wrong, right=rows[len(wrong) :]
    )
    write_atomically(folder / "index.html", page.encode())


if __name__ == "__main__":
    run(main)
