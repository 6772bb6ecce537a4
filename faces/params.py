"""The parameters of params.yaml as frozen, validated objects.

This module reads and checks; nothing that decides a result is computed here, for no stage depends on this file. It
has no defaults either: what is not in params.yaml is missing.
"""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from faces.cli import InputError
from faces.section import Model, Name, PositiveFraction, PositiveInt, Section, Seed, validated
from faces.training.recipe import ACTIVE, PartOfRecipe, Recipe, resolve


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

    scheme: Literal["stratified", "paper", "folders"]
    seed: Seed
    groups: Literal["duplicates", "children", "strict"]


class Networks(Section):
    """Where the face networks come from; with none, no face is looked for."""

    source: Literal["opencv-zoo", "none"]


class Embed(Section):
    """What counts as a face."""

    score: PositiveFraction
    longest_side: Annotated[int, Field(ge=64)]


class OfClass(Section):
    """A cosine similarity for each class."""

    down_syndrome: PositiveFraction
    healthy: PositiveFraction


class Group(Section):
    """How faces are grouped, and how the groups are checked."""

    floor: PositiveFraction
    linkage: Literal["single", "average", "complete"]
    children: OfClass
    strict: OfClass
    across: PositiveFraction
    window: PositiveInt
    reference: OfClass

    @model_validator(mode="after")
    def _ordered(self) -> "Group":
        for key in ("down_syndrome", "healthy"):
            strict, usual = getattr(self.strict, key), getattr(self.children, key)
            if not self.floor <= strict <= usual:
                raise ValueError(
                    f"{key}: strict ({strict}) joins more than children ({usual}): it must be at most that, "
                    f"and at least floor ({self.floor})"
                )
        if self.across < self.floor:
            raise ValueError(f"across ({self.across}) must be at least floor ({self.floor})")
        return self


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


class Labels(Section):
    """How many of the most similar faces are asked for their label."""

    faces: PositiveInt


class Params(Section):
    """The whole of params.yaml."""

    launch: Annotated[str, Field(min_length=1)]
    data: Data
    sample: Sample
    weights: Weights
    networks: Networks
    audit: Audit
    embed: Embed
    group: Group
    split: Shares
    splits: Annotated[dict[Name, Split], Field(min_length=1)]
    recipe: PartOfRecipe  # type: ignore[valid-type]
    recipes: Annotated[dict[Name, PartOfRecipe], Field(min_length=1)]  # type: ignore[valid-type]
    runs: Annotated[dict[Name, Run], Field(min_length=1)]
    train: Train
    compare: Compare
    model: Name
    evaluate: Evaluate
    probe: Probe
    labels: Labels

    @property
    def compared(self) -> list[str]:
        """The names of the runs on `compare`'s split with its seed."""
        beside = (self.compare.split, self.compare.seed)
        return [name for name, run in self.runs.items() if (run.split, run.seed) == beside]

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
        if not self.compared:
            raise ValueError(f"compare: no run is on {self.compare.split} with seed {self.compare.seed}")
        if self.model not in self.runs:
            raise ValueError(f"model: no run is named {self.model!r}; there are: {', '.join(self.runs)}")
        return self


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and validate every parameter; an `InputError` names each key that is wrong."""
    params = load(Params, path)
    for run in (ACTIVE, *params.runs):
        resolve(params, run)  # for its checks; what it returns is for the stages that train
    return params


def load(model: type[Model], path: Path) -> Model:
    """Read and validate a file of parameters; an `InputError` names each key that is wrong."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} not found; run from the repository's root") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return validated(model, values, where="", file=path.name)
