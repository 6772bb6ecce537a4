"""From params.yaml to what a run is told: its recipe with all layers laid over each other, as this machine can run it.

These are dependencies of the stages that train and evaluate, which faces/params.py is not.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from faces.cli import InputError
from faces.params import ACTIVE, Params, Recipe, Section, Transforms, validated

FROZEN_LAYERS = ("none", "stem", "layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class RunSpec:
    """A run before it is trained: a recipe on a split, with a seed."""

    name: str
    recipe: Recipe
    split: str
    seed: int


def resolve(params: Params, name: str) -> RunSpec:
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
