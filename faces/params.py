"""The parameters of params.yaml as frozen, validated objects.

This module reads and checks; nothing that decides a result is computed here, for no stage depends on this file. It
has no defaults either: what is not in params.yaml is missing.
"""

from copy import copy
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from faces.cli import InputError

PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Model = TypeVar("Model", bound=BaseModel)
ACTIVE = "active"  # the run that `train` describes
PositiveInt = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]  # of a split, recipe or run; it becomes a file name


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
    seed: Seed


class Audit(Section):
    """Limits and thresholds of the audit."""

    max_unreadable: Annotated[int, Field(ge=0)]
    max_pixels: PositiveInt
    hash_distance: Annotated[int, Field(ge=0, le=16)]
    feature_size: Annotated[int, Field(ge=32, le=1024)]
    feature_distance: Annotated[float, Field(ge=0, le=2, strict=False)]


class Shares(Section):
    """What all splits share: how much of each class goes where."""

    train: PositiveFraction
    validation: PositiveFraction
    test: PositiveFraction
    folds: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _sums(self) -> "Shares":
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("train, validation and test must sum to 1")
        if self.folds == 1:
            raise ValueError("folds must be 0 (none) or at least 2")
        return self


class Split(Section):
    """One way to divide the images."""

    scheme: Literal["stratified", "paper"]
    seed: Seed


class Transforms(Section):
    """The paper's augmentation (resize, random resized crop, random horizontal flip), and what evaluation sees."""

    resize: Annotated[int, Field(ge=32, le=1024)]
    crop: Annotated[int, Field(ge=32, le=1024)]
    scale: Annotated[tuple[PositiveFraction, PositiveFraction], Field(strict=False)]
    ratio: Annotated[tuple[float, float], Field(strict=False)]
    flip: Annotated[float, Field(ge=0, le=1, strict=False)]
    first_crop: Annotated[int | None, Field(ge=32, le=1024)]
    evaluation_crop: Annotated[int | None, Field(ge=32, le=1024)]
    evaluation_flip: bool

    @model_validator(mode="after")
    def _ordered(self) -> "Transforms":
        if self.scale[0] > self.scale[1]:
            raise ValueError("scale must be [smallest, largest]")
        if self.first_crop is not None and self.first_crop > self.crop:
            raise ValueError("first_crop must be at most crop")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError("ratio must be [smallest, largest], both positive")
        return self


class Recipe(Section):
    """Everything that a training is told, but for the split and the seed."""

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
    transforms: Transforms


def _part_of(model: type[Section], **instead: Any) -> type[Section]:
    """Return a section that may have any of a model's keys; of those with a part in `instead`, that part's."""
    fields: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        optional = copy(info)
        optional.default = None
        fields[name] = (instead.get(name, info.annotation), optional)
    return create_model(f"PartOf{model.__name__}", __base__=Section, **fields)


PartOfRecipe = _part_of(Recipe, transforms=_part_of(Transforms))


class Run(Section):
    """A recipe on a split, with a seed; `change` is laid over the recipe."""

    recipe: Name
    split: Name
    seed: Seed
    change: PartOfRecipe | None = None  # type: ignore[valid-type]


class Train(Recipe):
    """The active run: a whole recipe, its split and its seed."""

    split: Name
    seed: Seed


class Compare(Section):
    """The runs on this split with this seed are set beside each other."""

    split: Name
    seed: Seed


class Sweep(Section):
    """Changes to recipes.improved, each an experiment of faces/sweep.py; `base` is laid under all of them."""

    base: PartOfRecipe  # type: ignore[valid-type]
    variants: Annotated[dict[Name, PartOfRecipe], Field(min_length=1)]  # type: ignore[valid-type]


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


class Explain(Section):
    """What the active run's accuracy with parts hidden is set beside."""

    beside: Name


class Gate(Section):
    """When the gate calls a metric worse than it was."""

    alpha: Annotated[float, Field(gt=0, lt=1)]
    permutations: Annotated[int, Field(ge=100)]
    tolerances: Annotated[dict[str, Annotated[float, Field(ge=0, le=1, strict=False)]], Field(min_length=1)]


class Params(Section):
    """The whole of params.yaml."""

    launch: Annotated[str, Field(min_length=1)]
    data: Data
    sample: Sample
    weights: Weights
    audit: Audit
    split: Shares
    splits: Annotated[dict[Name, Split], Field(min_length=1)]
    recipe: PartOfRecipe  # type: ignore[valid-type]
    recipes: Annotated[dict[Name, PartOfRecipe], Field(min_length=1)]  # type: ignore[valid-type]
    runs: Annotated[dict[Name, Run], Field(min_length=1)]
    train: Train
    compare: Compare
    explain: Explain
    sweep: Sweep
    evaluate: Evaluate
    probe: Probe
    gate: Gate

    @model_validator(mode="after")
    def _named(self) -> "Params":
        splits = [(f"runs.{name}", run.split) for name, run in self.runs.items()]
        for where, split in [*splits, ("train", self.train.split), ("compare", self.compare.split)]:
            if split not in self.splits:
                raise ValueError(f"{where}.split: no split is named {split!r}; there are: {', '.join(self.splits)}")
        for name, run in self.runs.items():
            if run.recipe not in self.recipes:
                known = ", ".join(self.recipes)
                raise ValueError(f"runs.{name}.recipe: no recipe is named {run.recipe!r}; there are: {known}")
            if name == ACTIVE:
                raise ValueError(f"runs.{name}: this is the name of the run that `train` describes; choose another")
        if self.explain.beside not in self.runs:
            known = ", ".join(self.runs)
            raise ValueError(f"explain.beside: no run is named {self.explain.beside!r}; there are: {known}")
        return self


def validated(model: type[Model], values: Any, where: str) -> Model:
    """Return values as a section; an `InputError` names each key that is wrong, `where` before it."""
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
    params = validated(Params, values, where="")
    from faces.training.recipe import resolve  # here for its checks; what it returns is for the stages that train

    for run in (ACTIVE, *params.runs):
        resolve(params, run)
    return params
