"""The paper's reported figures as validated objects, their digits kept as printed."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from faces.cli import InputError
from faces.section import Section

Count = Annotated[int, Field(ge=0)]
Quantity = Literal["accuracy", "precision", "recall", "f1"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)


def _printed(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must stand in quotes, digits as printed")
    return value


Printed = Annotated[str, BeforeValidator(_printed), Field(pattern=r"^\d{1,3}(\.\d{1,9})?%?$")]


def value_and_unit(printed: str) -> tuple[float, float]:
    """Return a printed figure as a fraction, and its last digit's worth: "82.83%" is (0.8283, 0.0001)."""
    number = Decimal(printed.removesuffix("%"))
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    scale = Decimal(100 if printed.endswith("%") else 1)
    return float(number / scale), float(Decimal(1).scaleb(exponent) / scale)


class OneClass(Section):
    """A class and its number of test images."""

    name: str
    n: Annotated[int, Field(gt=0)]


class Classes(Section):
    """The test images per class; positive is the class that y_true = 1 stands for."""

    positive: OneClass
    negative: OneClass

    @property
    def n(self) -> int:
        """Images of both classes."""
        return self.positive.n + self.negative.n


class Matrix(Section):
    """A confusion matrix as a figure shows it."""

    tn: Count
    fp: Count
    fn: Count
    tp: Count


class Images(Section):
    """Images behind the train and validation accuracies."""

    train: Annotated[int, Field(gt=0)]
    validation: Annotated[int, Field(gt=0)]


class Row(Section):
    """What the paper reports of one run."""

    name: str
    accuracy: Printed | None = None
    precision: Printed | None = None
    recall: Printed | None = None
    f1: Printed | None = None
    matrix: Matrix | None = None
    train_accuracy: Printed | None = None
    validation_accuracy: Printed | None = None
    stopped_epoch: Annotated[int, Field(gt=0)] | None = None

    @property
    def reported(self) -> dict[Quantity, str]:
        """The test figures that are there, as printed."""
        values = {name: getattr(self, name) for name in QUANTITIES}
        return {name: value for name, value in values.items() if value is not None}

    @model_validator(mode="after")
    def _not_empty(self) -> "Row":
        if not self.reported:
            raise ValueError(f"needs at least one of {', '.join(QUANTITIES)}")
        return self


class Claim(Section):
    """A conclusion of the paper, and the kind of criterion that decides it (faces/evidence/claims.py)."""

    claim: str
    kind: Literal["reaches", "best", "underfits", "overfits"]
    trial: str
    against: str | None = None
    accuracy: Annotated[float, Field(gt=0, lt=1)] | None = None
    margin: Annotated[float, Field(ge=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> "Claim":
        needs = {"reaches": ("accuracy",), "underfits": ("against", "margin"), "overfits": ("against",)}
        for key in needs.get(self.kind, ()):
            if getattr(self, key) is None:
                raise ValueError(f"a claim of kind {self.kind} needs {key}")
        return self


class Other(Section):
    """What others report, as they word it; split: what is known of it; n: images of the whole data set."""

    name: str
    model: str
    accuracy: str
    recall: str | None = None
    data: str
    split: str
    n: Annotated[int, Field(gt=0)] | None = None
    source: str


class Paper(Section):
    """A results table with its test set, and what else is reported."""

    title: str
    table: str
    test: Classes
    rows: Annotated[dict[str, Row], Field(min_length=1)]
    n: Images | None = None
    averaging: Literal["macro", "weighted"] = "weighted"
    others: Annotated[tuple[Other, ...], Field(strict=False)] = ()
    claims: Annotated[tuple[Claim, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _sums(self) -> "Paper":
        for name, row in self.rows.items():
            m = row.matrix
            if m and (m.tp + m.fn, m.tn + m.fp) != (self.test.positive.n, self.test.negative.n):
                raise ValueError(f"rows.{name}.matrix does not add up to the test images of each class")
        return self


def load_paper(path: Path) -> Paper:
    """Read and validate a paper's table; an `InputError` names the file and each key that is wrong."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} not found; give the YAML file of a paper's table") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return Paper.model_validate(values)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in e['loc']) or 'file'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        ]
        raise InputError(f"{path}: " + "; ".join(problems)) from None
