"""Score validation and test images with a trained run, and measure how well it does."""

import json
from pathlib import Path
from typing import Annotated

import typer

from faces.cli import InputError, run
from faces.files import write_atomically, write_json
from faces.params import Recipe, Transforms, load_params


def main(
    data: Path,
    splits: Path,
    model: Path,
    out_predictions: Path,
    out_metrics: Path,
    plots: Annotated[Path | None, typer.Option(help="also write the curves to plot into this folder")] = None,
    headline: Annotated[Path | None, typer.Option(help="also write the few numbers that stand for the run")] = None,
) -> None:
    """Write predictions (path, subset, y_true, y_score) and the metrics made from them."""
    params = load_params()
    facts = json.loads((model / "run.json").read_text(encoding="utf-8"))

    import pandas as pd
    import torch

    from faces.evidence import metrics
    from faces.training import determinism
    from faces.training.features import FrozenFeatures, load_subset
    from faces.training.loop import predict
    from faces.training.model import Tail, load_model

    determinism.enable()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe, transforms = Recipe.model_validate(facts["recipe"]), Transforms.model_validate(facts["transforms"])
    network = load_model(model / "model.pt")
    frozen = FrozenFeatures(network, recipe, transforms, facts["seed"], device)
    tail = Tail(network, recipe.freeze, recipe.precision).to(device)

    table = pd.read_csv(splits)
    parts = []
    for name in ("test", "validation"):
        rows = table[table["subset"] == name].sort_values("path")
        if rows.empty:
            raise InputError(f"{splits}: the {name} subset is empty; there are too few images")
        images = load_subset(data, rows, name, transforms.resize)
        everything = torch.arange(len(images.pixels))
        views = []
        for mirrored in transforms.evaluation_views:
            logits = predict(tail, frozen.clean(images, everything, mirrored), device)  # [N, 2]
            views.append(logits.double().softmax(dim=1)[:, 1])  # paper, equation 2
        y_score = torch.stack(views).mean(dim=0)
        parts.append(rows[["path", "subset", "y_true"]].assign(y_score=y_score.numpy().round(6)))
    predictions = pd.concat(parts)

    write_atomically(out_predictions, predictions.to_csv(index=False, lineterminator="\n").encode())
    document = metrics.evaluate_predictions(predictions, params.evaluate, facts)
    write_json(out_metrics, document.model_dump())
    if headline is not None:
        write_json(headline, metrics.headline(document))
    if plots is not None:
        for name, curve in metrics.curves(predictions, params.evaluate.confidence).items():
            write_atomically(plots / f"{name}.csv", curve.to_csv(index=False, lineterminator="\n").encode())


if __name__ == "__main__":
    run(main)
