"""What the sections of parameter files have in common: strict, frozen, and one clear line for each mistake."""

from copy import copy
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from faces.cli import InputError

PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Model = TypeVar("Model", bound=BaseModel)
PositiveInt = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]  # of a split, recipe or run; it becomes a file name


class Section(BaseModel):
    """A part of a file of parameters: no unknown keys, no implicit conversions, no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def part_of(model: type[Section], **instead: Any) -> type[Section]:
    """Return a section that may have any of a model's keys; of those with a part in `instead`, that part's."""
    fields: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        optional = copy(info)
        optional.default = None
        fields[name] = (instead.get(name, info.annotation), optional)
    return create_model(f"PartOf{model.__name__}", __base__=Section, **fields)


def validated(model: type[Model], values: Any, where: str, file: str = "params.yaml") -> Model:
    """Return values as a section; an `InputError` names the file and each key that is wrong, `where` before it."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = []
        for e in error.errors():
            key = ".".join(str(part) for part in (where, *e["loc"]) if part)
            what = {"missing": "is missing", "extra_forbidden": "is not a known parameter"}.get(e["type"])
            problems.append(f"{key} {what}" if what else f"{key or 'file'}: {e['msg']} (is {e['input']!r:.60})")
        raise InputError(f"{file}: " + "; ".join(problems)) from None
