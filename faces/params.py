"""The parameters of params.yaml as frozen, validated objects."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from faces.cli import InputError

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Model = TypeVar("Model", bound=BaseModel)
PositiveInt = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """A part of params.yaml: no unknown keys, no implicit conversions, no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Data(Section):
    """Where the images come from, and the limits on the archive that brings them."""

    source: Annotated[str, Field(min_length=1)]
    dataset: Annotated[str, Field(pattern=r"^[\w-]+/[\w-]+(/\d+)?$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    max_files: PositiveInt
    max_bytes: PositiveInt
    max_ratio: Annotated[float, Field(gt=1, strict=False)]

    @property
    def kind(self) -> Literal["kaggle", "sample", "own"]:
        """Whose images these are; every result carries the word."""
        return self.source if self.source in ("kaggle", "sample") else "own"  # type: ignore[return-value]


class Sample(Section):
    """The drawn faces."""

    images_per_class: Annotated[int, Field(ge=20)]


class Weights(Section):
    """Where the pretrained body comes from."""

    source: Literal["imagenet", "random"]


class Audit(Section):
    """Limits and thresholds of the audit."""

    max_unreadable: Annotated[int, Field(ge=0)]
    max_pixels: PositiveInt
    hash_distance: Annotated[int, Field(ge=0, le=16)]
    feature_distance: Annotated[float, Field(ge=0, le=2, strict=False)]


class Split(Section):
    """The three subsets."""

    scheme: Literal["stratified", "paper"]
    seed: Seed
    train: PositiveFraction
    validation: PositiveFraction
    test: PositiveFraction
    folds: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _sums(self) -> "Split":
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("train, validation and test must sum to 1")
        if self.folds == 1:
            raise ValueError("folds must be 0 (none) or at least 2")
        return self


class Transforms(Section):
    """The paper's augmentation (resize, random resized crop, random horizontal flip), and what evaluation sees."""

    resize: Annotated[int, Field(ge=32, le=1024)]
    crop: Annotated[int, Field(ge=32, le=1024)]
    scale: Annotated[tuple[PositiveFraction, PositiveFraction], Field(strict=False)]
    ratio: Annotated[tuple[float, float], Field(strict=False)]
    flip: Annotated[float, Field(ge=0, le=1, strict=False)]
    first_crop: Annotated[int | None, Field(ge=32, le=1024)] = None
    evaluation_crop: Annotated[int | None, Field(ge=32, le=1024)] = None
    evaluation_flip: bool = False

    @property
    def evaluation_size(self) -> int:
        """The side in pixels of what the network sees in evaluation."""
        return self.evaluation_crop or self.crop

    @property
    def evaluation_views(self) -> tuple[bool, ...]:
        """The looks at an image whose scores evaluation takes the mean of: is each of them mirrored?"""
        return (False, True) if self.evaluation_flip else (False,)

    @model_validator(mode="after")
    def _ordered(self) -> "Transforms":
        if self.scale[0] > self.scale[1]:
            raise ValueError("scale must be [smallest, largest]")
        if self.first_crop is not None and self.first_crop > self.crop:
            raise ValueError("first_crop must be at most crop")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError("ratio must be [smallest, largest], both positive")
        return self


FROZEN_LAYERS = ("none", "stem", "layer1", "layer2", "layer3", "layer4")


class Recipe(Section):
    """One run's hyperparameters: `fit` with the overrides of a trial or of `train`."""

    batch_size: PositiveInt
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    freeze: Literal["none", "stem", "layer1", "layer2", "layer3", "layer4"]
    max_epochs: PositiveInt
    patience: PositiveInt
    weight_decay: Annotated[float, Field(ge=0, le=1, strict=False)]
    schedule: Literal["constant", "one-cycle"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1, strict=False)]
    ema_decay: Annotated[float, Field(ge=0, lt=1, strict=False)]
    precision: Literal["bf16", "fp32"]


class Repeats(Section):
    """The splits that the improved recipe is repeated on."""

    split_seeds: Annotated[list[Seed], Field(min_length=1)]

    @model_validator(mode="after")
    def _once(self) -> "Repeats":
        if len(set(self.split_seeds)) < len(self.split_seeds):
            raise ValueError("split_seeds must differ")
        return self


class Sweep(Section):
    """Changes to trials.improved, each an experiment of faces/sweep.py; `base` is laid under all of them."""

    base: dict[str, Any]
    variants: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z0-9-]+$")], dict[str, Any]], Field(min_length=1)]


class Evaluate(Section):
    """Intervals and the operating point."""

    confidence: Annotated[float, Field(gt=0, lt=1)]
    resamples: Annotated[int, Field(ge=100)]
    seed: Seed
    recall: PositiveFraction


class Probe(Section):
    """Cross-validation of the shortcut probes."""

    folds: Annotated[int, Field(ge=2)]
    seed: Seed


class Gate(Section):
    """When the gate calls a metric worse than it was."""

    alpha: Annotated[float, Field(gt=0, lt=1)]
    permutations: Annotated[int, Field(ge=100)]
    tolerances: Annotated[dict[str, Annotated[float, Field(ge=0, le=1, strict=False)]], Field(min_length=1)]


class Params(Section):
    """The whole of params.yaml."""

    seed: Seed
    launch: Annotated[str, Field(min_length=1)]
    data: Data
    sample: Sample
    weights: Weights
    audit: Audit
    split: Split
    transforms: Transforms
    fit: dict[str, Any]
    trials: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    repeats: Repeats
    sweep: Sweep
    train: dict[str, Any]
    evaluate: Evaluate
    probe: Probe
    gate: Gate

    @property
    def runs(self) -> list[str]:
        """The names of all runs: train, trials.<name> ..."""
        return ["train", *(f"trials.{name}" for name in self.trials)]

    def recipe(self, run: str) -> Recipe:
        """Return the hyperparameters of `train` or of a trial, e.g. `trials.trial1`, as this machine can run them."""
        return on_this_machine(self.validated_recipe(run))

    def validated_recipe(self, run: str) -> Recipe:
        """Return the hyperparameters as params.yaml gives them; an `InputError` names each that is wrong."""
        own = {key: value for key, value in self._own(run).items() if key != "transforms"}
        return _validated(Recipe, {**self.fit, **own}, where=run)

    def transforms_of(self, run: str) -> Transforms:
        """Return what all runs share in `transforms`, with what this run lays over it."""
        own = self._own(run).get("transforms", {})
        if not isinstance(own, dict):
            raise InputError(f"params.yaml: {run}.transforms must be a mapping (is {own!r:.60})")
        return _validated(Transforms, {**self.transforms.model_dump(), **own}, where=f"{run}.transforms")

    def _own(self, run: str) -> dict[str, Any]:
        if run not in self.runs:
            raise InputError(f"params.yaml: no run named {run!r}; there are: {', '.join(self.runs)}")
        return self.train if run == "train" else self.trials[run.removeprefix("trials.")]


def _validated(model: type[Model], values: Any, where: str) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = []
        for e in error.errors():
            key = ".".join(str(part) for part in (where, *e["loc"]) if part)
            what = {"missing": "is missing", "extra_forbidden": "is not a known parameter"}.get(e["type"])
            problems.append(f"{key} {what}" if what else f"{key or 'file'}: {e['msg']} (is {e['input']!r:.60})")
        raise InputError("params.yaml: " + "; ".join(problems)) from None


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and validate every parameter; an `InputError` names each key that is wrong."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} not found; run from the repository's root") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    params = _validated(Params, values, where="")
    for run in params.runs:
        params.validated_recipe(run)
        params.transforms_of(run)
    return params


def on_this_machine(recipe: Recipe) -> Recipe:
    """Return the recipe with fp32 in place of bf16 where bf16 would be emulated, and say so on stderr.

    Emulated it is many times slower than fp32.
    """
    if recipe.precision == "fp32" or has_bf16():
        return recipe
    print("this machine computes no bf16: fp32, which is faster here, takes its place", file=sys.stderr)
    return recipe.model_copy(update={"precision": "fp32"})


def has_bf16() -> bool:
    """Say whether the device computes in bf16 itself: GPUs since Ampere, CPUs with AVX-512 or Arm's bf16."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported())
