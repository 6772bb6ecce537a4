"""What the JSON files in metrics/ hold: frozen, typed, checked when they are read.

RunMetrics is one run's file. Its metrics are estimates of the test subset, in the order of `metrics.METRICS`;
precision, recall and f1 are the Down syndrome class's, _macro and _weighted average both classes.
An image counts as Down syndrome where y_score >= threshold.
"""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from faces.cli import InputError
from faces.evidence.estimate import Estimate

Kind = TypeVar("Kind")


class Document(BaseModel):
    """A part of a JSON file: no unknown keys, no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Images(Document):
    """Numbers of images."""

    test: int
    test_down_syndrome: int
    test_healthy: int
    validation: int
    train: int


class Settings(Document):
    """How the metrics were made."""

    confidence: float
    threshold: float
    resamples: int
    seed: int  # of the bootstrap
    calibration_bins: int


class ConfusionMatrix(Document):
    """Numbers of images: rows actual, columns predicted, healthy first: ((tn, fp), (fn, tp))."""

    labels: tuple[str, str]
    matrix: tuple[tuple[int, int], tuple[int, int]]


class Validation(Document):
    """The validation subset at the same threshold."""

    metrics: dict[str, Estimate]
    confusion_matrix: ConfusionMatrix


class OperatingPoint(Document):
    """The threshold set on the validation subset for a target recall, and what it does on either subset."""

    target_recall: float
    threshold: float
    validation: dict[str, Estimate]
    test: dict[str, Estimate]
    confusion_matrix: ConfusionMatrix


class Epoch(Document):
    """One epoch of training."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float


class Finished(Document):
    """What followed training: how the validation images fare in the end, and how the scores were calibrated.

    The difference of the logits was multiplied by slope and raised by shift; 1 and 0: it was not.
    """

    val_loss: float
    val_accuracy: float
    slope: float
    shift: float


class Training(Document):
    """What was trained, on what, and how it went."""

    recipe: dict[str, Any]
    split: str
    seed: int
    stopped_epoch: int
    best_epoch: int  # whose weights were kept
    n_train: int
    n_validation: int
    device: str
    machine: dict[str, Any] = {}  # what decides the last digits (faces/training/machine.py); empty: not recorded
    at_best: Epoch
    at_stop: Epoch
    finished: Finished | None = None  # None: not recorded
    unaligned: dict[str, int] = {}  # images of a subset seen whole, no face being found, where the recipe aligns faces


class Weights(Document):
    """The pretrained body."""

    sha256: str
    known_as: str


class RunMetrics(Document):
    """One run's metrics."""

    run: str
    source: str  # kaggle, sample or own
    n: Images
    settings: Settings
    metrics: dict[str, Estimate]
    confusion_matrix: ConfusionMatrix
    validation: Validation
    operating_point: OperatingPoint
    training: Training
    weights: Weights
    model_sha256: str


class Probe(Document):
    """One model of one view: its cross-validated accuracy on all images, and on the test subset."""

    sees: str
    model: str
    accuracy: Estimate
    accuracy_on_test: Estimate


class Beside(Document):
    """A run's test accuracy, and the same where the strongest probe is right and where it is wrong; None of no image.

    A run that took the same shortcuts would fail where the probe fails.
    """

    accuracy: Estimate
    where_probe_is_right: Estimate | None
    where_probe_is_wrong: Estimate | None


class Probes(Document):
    """What metrics/probes.json holds; guessing: the share of the larger class."""

    source: str
    n: int
    folds: int
    seed: int
    confidence: float
    guessing: float
    probes: tuple[Probe, ...]
    runs: dict[str, Beside]


class Heat(Document):
    """The share of the average Grad-CAM map that lies in the middle, of n images."""

    value: float
    n: int


class Occluded(Document):
    """A run's test accuracy with the picture whole or a part of it hidden."""

    run: str
    accuracy: dict[str, Estimate]


class Explained(Occluded):
    """What metrics/explain.json holds, of the active run; beside: another run."""

    source: str
    class_explained: str
    middle_area: float  # share of the picture
    heat_in_middle: dict[str, Heat]  # by class
    beside: tuple[Occluded, ...]


def read_document(kind: type[Kind], path: Path) -> Kind:
    """Read a JSON file as what it should hold: a Document, or a dictionary.

    Errors: InputError, which names the file and the first thing that is wrong in it.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} not found; run `dvc repro` first") from None
    except ValidationError as error:
        first = error.errors()[0]
        what = "is not valid JSON" if first["type"] == "json_invalid" else "does not hold what it should"
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise InputError(f"{path} {what} ({reason}); run `dvc repro` to write it again") from None
