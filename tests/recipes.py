"""A recipe for small tests: the paper's first trial, changed as the test says."""

from pathlib import Path
from typing import Any

from ci.demo import overlay
from faces.params import load_params
from faces.training.recipe import Recipe, resolve

REPOSITORY = Path(__file__).parents[1]


def recipe(**changes: Any) -> Recipe:
    """Return the recipe of the run trial1 of params.yaml, with (nested) changes."""
    found = resolve(load_params(REPOSITORY / "params.yaml"), "trial1").recipe
    return Recipe.model_validate(overlay(found.model_dump(), changes))
