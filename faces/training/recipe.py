"""What a run is told: its recipe, made of the layers of params.yaml, and what follows from it."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from faces.cli import InputError
from faces.section import PositiveFraction, PositiveInt, Section, part_of, validated

if TYPE_CHECKING:
    from faces.params import Params

ACTIVE = "active"  # the run that the section `train` describes

FROZEN_LAYERS = ("none", "stem", "layer1", "layer2", "layer3", "layer4")


class Transforms(Section):
    """The paper's augmentation (resize, random resized crop, random horizontal flip), and what evaluation sees."""

    resize: Annotated[int, Field(ge=32, le=1024)]
    crop: Annotated[int, Field(ge=32, le=1024)]
    scale: Annotated[tuple[PositiveFraction, PositiveFraction], Field(strict=False)]
    ratio: Annotated[tuple[float, float], Field(strict=False)]
    flip: Annotated[float, Field(ge=0, le=1, strict=False)]
    align: PositiveFraction | None
    colour: Annotated[float, Field(ge=0, lt=1, strict=False)]
    erase: Annotated[float, Field(ge=0, le=1, strict=False)]
    final_scale: Annotated[tuple[PositiveFraction, PositiveFraction] | None, Field(strict=False)]
    final_epochs: Annotated[int, Field(ge=0)]
    first_crop: Annotated[int | None, Field(ge=32, le=1024)]
    evaluation_crop: Annotated[int | None, Field(ge=32, le=1024)]
    evaluation_flip: bool

    @model_validator(mode="after")
    def _ordered(self) -> "Transforms":
        if self.scale[0] > self.scale[1]:
            raise ValueError("scale must be [smallest, largest]")
        if self.final_scale is not None and self.final_scale[0] > self.final_scale[1]:
            raise ValueError("final_scale must be [smallest, largest]")
        if (self.final_scale is None) != (self.final_epochs == 0):
            raise ValueError("final_scale and final_epochs go together: both, or null and 0")
        if self.first_crop is not None and self.first_crop > self.crop:
            raise ValueError("first_crop must be at most crop")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError("ratio must be [smallest, largest], both positive")
        return self


class Recipe(Section):
    """Everything that a training is told, but for the split and the seed."""

    batch_size: PositiveInt
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    layer_decay: PositiveFraction
    freeze: Literal["none", "stem", "layer1", "layer2", "layer3", "layer4"]
    max_epochs: PositiveInt
    patience: PositiveInt
    weight_decay: Annotated[float, Field(ge=0, le=1, strict=False)]
    schedule: Literal["constant", "one-cycle"]
    warm_up: Annotated[float, Field(gt=0, lt=1, strict=False)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1, strict=False)]
    mixup: Annotated[float, Field(ge=0, le=10, strict=False)]
    ema_decay: Annotated[float, Field(ge=0, lt=1, strict=False)]
    reestimate_norms: bool
    calibrate: bool
    precision: Literal["bf16", "fp32"]
    transforms: Transforms


PartOfRecipe = part_of(Recipe, transforms=part_of(Transforms))


@dataclass(frozen=True)
class RunSpec:
    """A run before it is trained: a recipe on a split, with a seed."""

    name: str
    recipe: Recipe
    split: str
    seed: int


def resolve(params: "Params", name: str) -> RunSpec:
    """Return a run of `runs`, or the active one, as params.yaml describes it.

    Errors: InputError for an unknown name, a missing hyperparameter, or values that do not go together.
    """
    if name == ACTIVE:
        recipe = Recipe.model_validate(params.train.model_dump(exclude={"split", "seed"}))
        return RunSpec(name, recipe, params.train.split, params.train.seed)
    if name not in params.runs:
        raise InputError(f"params.yaml: no run is named {name!r}; there are: {ACTIVE}, {', '.join(params.runs)}")
    run = params.runs[name]
    layers = [params.recipe, params.recipes[run.recipe], *([run.change] if run.change else [])]
    return RunSpec(name, overlay(layers, where=f"runs.{name}"), run.split, run.seed)


def overlay(layers: list[Section], where: str) -> Recipe:
    """Return the recipe whose keys come from the last layer that has them; `where` is named in errors."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer.model_dump(mode="json", exclude_unset=True))
    return validated(Recipe, merged, where=where)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        merged[key] = _merge(merged.get(key, {}), value) if isinstance(value, Mapping) else value
    return merged


def evaluation_size(transforms: Transforms) -> int:
    """Return the side in pixels of what the network sees in evaluation."""
    return transforms.evaluation_crop or transforms.crop


def evaluation_views(transforms: Transforms) -> tuple[bool, ...]:
    """Return the views of an image whose scores evaluation takes the mean of: is each of them mirrored?"""
    return (False, True) if transforms.evaluation_flip else (False,)


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
