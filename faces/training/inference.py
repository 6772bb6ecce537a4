"""A trained run, from pixels to probability: the one way that evaluation, explanation, prediction and export take."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn
from torchvision.models import ResNet

from faces.cli import InputError
from faces.files import file_sha256
from faces.images.yunet import Detector
from faces.section import PositiveInt, Section
from faces.training.model import Body, Tail, load_model
from faces.training.recipe import Recipe, evaluation_size, evaluation_views
from faces.training.transforms import resize

BATCH = {"cpu": 16, "cuda": 64}  # images at once; few on a CPU, for the reason of features.CHUNK
DIGITS = 6  # of a probability


class Classifier(nn.Module):
    """A trained network with a run's preprocessing, in the precision that it was trained in."""

    def __init__(self, network: ResNet, recipe: Recipe, dtype: torch.dtype = torch.float64) -> None:
        """dtype: of the softmax and of the mean over the views."""
        super().__init__()
        self.size = evaluation_size(recipe.transforms)
        self.views = evaluation_views(recipe.transforms)
        self.dtype = dtype
        self.body = Body(network, recipe.freeze, recipe.precision)
        self.tail = Tail(network, recipe.freeze, recipe.precision)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Map what the network sees, uint8 [N, 3, size, size], to the probability of Down syndrome [N]."""
        views = [images.flip(3) if mirrored else images for mirrored in self.views]
        scores = [self.tail(self.body(view)).to(self.dtype).softmax(dim=1)[:, 1] for view in views]
        return torch.stack(scores).mean(dim=0)

    @property
    def batch_size(self) -> int:
        """The number of images that go through at once."""
        return BATCH[self.tail.fc.weight.device.type]

    @torch.inference_mode()
    def predict_proba(
        self, pixels: Tensor, change: Callable[[Tensor], Tensor] = lambda images: images
    ) -> npt.NDArray[np.float64]:
        """Return the probability of Down syndrome [N], to 6 digits, of pixels uint8 [N, 3, resize, resize].

        change: applied to what the network sees, uint8 [n, 3, size, size], before it sees it.
        """
        device = self.tail.fc.weight.device
        scores = [
            self(change(resize(batch, self.size)).to(device)).cpu() for batch in torch.split(pixels, self.batch_size)
        ]
        return torch.cat(scores).numpy().round(DIGITS) if scores else np.empty(0)


class Threshold(Section):
    """What threshold.json holds: which probability decides, and what else prediction needs beside the network."""

    value: Annotated[float, Field(ge=0, le=1)]  # Down syndrome from this probability on
    target_recall: float  # which it reaches on the validation subset
    n: int  # validation images of the class Down syndrome
    max_pixels: PositiveInt  # larger images are refused
    model_sha256: str


@dataclass(frozen=True)
class FaceDetector:
    """What finds the faces that a run aligns: the file of YuNet, and what counts as a face."""

    file: Path
    score: float
    longest_side: int

    def load(self) -> Detector:
        """Return the detector, loaded; it is not for several threads at once."""
        return Detector(self.file, self.score, self.longest_side)


@dataclass(frozen=True)
class TrainedRun:
    """What a model folder holds: its record, run.json, and the network of model.pt, in evaluation mode."""

    facts: dict[str, Any]
    recipe: Recipe
    network: ResNet

    def classifier(self, device: torch.device) -> Classifier:
        """Return the run's classifier on a device."""
        return Classifier(self.network, self.recipe).to(device)


def load_run(folder: Path) -> TrainedRun:
    """Read a model folder.

    Errors: InputError for what is missing in it, is not as a training writes it, or does not belong together.
    """
    if folder.is_file():
        raise InputError(f"{folder} is a file; the folder that holds model.pt and run.json is needed")
    for name in ("run.json", "model.pt"):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} holds no trained model: {name} is missing; `dvc repro` or `dvc pull` fills models/"
            )
    try:
        facts: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        recipe = Recipe.model_validate(facts["recipe"])
        if missing := {"run", "source", "split", "model_sha256", "detector"} - facts.keys():
            raise KeyError(missing)
    except (ValueError, KeyError, TypeError):  # an older version's may lack something, too
        raise InputError(f"{folder / 'run.json'} is not a run's record; `dvc repro` writes it again") from None
    if facts["model_sha256"] != file_sha256(folder / "model.pt"):
        raise InputError(f"{folder / 'run.json'} is about another model than {folder / 'model.pt'}; run `dvc repro`")
    return TrainedRun(facts, recipe, load_model(folder / "model.pt"))


def face_detector(folder: Path, trained: TrainedRun) -> FaceDetector | None:
    """Return what finds the faces that a run aligns; None where it aligns none, or where it was trained without.

    Errors: InputError if its file is missing.
    """
    if trained.recipe.transforms.align is None:
        return None
    file = folder / "detector.onnx"
    if not file.is_file():
        raise InputError(f"{file} is missing, by which the model finds faces; `dvc repro` or `dvc pull` brings it")
    return FaceDetector(file, **trained.facts["detector"]) if file.stat().st_size else None


def read_threshold(folder: Path, model_sha256: str) -> Threshold:
    """Read threshold.json of a model folder; an `InputError` says if it is not there, or another model's."""
    path = folder / "threshold.json"
    try:
        threshold = Threshold.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} is missing: the model has not been evaluated; `dvc repro` does it") from None
    except ValidationError:
        raise InputError(f"{path} is not what the evaluation writes; `dvc repro` writes it again") from None
    if threshold.model_sha256 != model_sha256:
        raise InputError(f"{path} is about another model than {folder / 'model.pt'}; run `dvc repro`")
    return threshold


def fastest_device() -> torch.device:
    """Return the GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
