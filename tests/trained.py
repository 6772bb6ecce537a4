"""A recipe for small tests, and a model folder as training and evaluation leave it."""

from pathlib import Path
from typing import Any

from ci.demo import overlay
from faces.files import file_sha256, write_json
from faces.params import load_params
from faces.training.recipe import Recipe, resolve

REPOSITORY = Path(__file__).parents[1]


def recipe(**changes: Any) -> Recipe:
    """Return the recipe of the run trial1 of params.yaml, with (nested) changes."""
    found = resolve(load_params(REPOSITORY / "params.yaml"), "trial1").recipe
    return Recipe.model_validate(overlay(found.model_dump(), changes))


def model_folder(folder: Path, recipe: Recipe, source: str = "kaggle", run: str = "improved") -> Path:
    """Write an untrained network (seed 0) and what belongs to it, with a threshold of 0.5."""
    import torch
    from torchvision.models import resnet34

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.save(resnet34(num_classes=2).state_dict(), folder / "model.pt")
    sha256 = file_sha256(folder / "model.pt")
    facts = {"run": run, "source": source, "recipe": recipe.model_dump(), "split": "seed1", "model_sha256": sha256}
    facts["detector"] = {"score": 0.6, "longest_side": 640}
    (folder / "detector.onnx").touch()
    write_json(folder / "run.json", facts)
    threshold = {"value": 0.5, "target_recall": 0.98, "n": 9, "max_pixels": 50_000_000, "model_sha256": sha256}
    write_json(folder / "threshold.json", threshold)
    return folder
