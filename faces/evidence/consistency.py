"""Can a reported row come from any confusion matrix at all? Every matrix is tried, as GRIM tries every mean.

With P positive and N negative test images there are (P + 1)(N + 1) confusion matrices, few enough to compute all.
For each averaging of precision, recall and F1, and for rounded and truncated digits, a printed figure is possible
if some matrix gives it, and a row is consistent if one matrix gives all its figures.

GRIM: Brown, N. J. L., Heathers, J. A. J. (2017). The GRIM test. Social Psychological and Personality Science 8,
363-369. The two F1 of averages: Opitz, J., Burst, S. (2019). Macro F1 and macro F1. arXiv:1911.03347.
"""

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from faces.cli import InputError
from faces.evidence.documents import Document
from faces.evidence.paper import Classes, Paper, Quantity, Row, value_and_unit
from faces.evidence.statistics import Array

Mask = npt.NDArray[np.bool_]
Figures = dict[Quantity, Array]
Reading = Literal["rounded", "truncated"]
READINGS: tuple[Reading, ...] = get_args(Reading)
AVERAGED: tuple[Quantity, ...] = ("precision", "recall", "f1")

LARGEST = 4_000_000  # matrices; beyond this the arrays outgrow a small machine's memory
SLACK = 1e-13  # far above float error, far below the distance of two matrices' figures
LISTED = 5  # matrices written out per search


class OneMatrix(Document):
    """A confusion matrix, the number of images it gets right, and its accuracy in the paper's digits."""

    tn: int
    fp: int
    fn: int
    tp: int
    right: int
    accuracy: str


class Search(Document):
    """How many matrices give what a row reports, with one averaging and one reading of the digits.

    counts: each of the averaged figures alone; averages: all of them at once; all: and the accuracy, too;
    matrices: the first LISTED of those behind `averages`.
    """

    averaging: str
    reading: Reading
    counts: dict[Quantity, int]
    averages: int
    all: int
    matrices: tuple[OneMatrix, ...]

    @property
    def label(self) -> str:
        """The way of averaging and reading in words."""
        return label(self.averaging, self.reading)


class Figure(OneMatrix):
    """A row's printed matrix: the ways in which it gives the row's averaged figures, and whose it gives at all."""

    gives_accuracy: bool
    gives: tuple[str, ...]
    explains: tuple[str, ...]
    same_as: tuple[str, ...]


class RowFindings(Document):
    """What a row can come from; accuracy_alone: the counts of right images by reading; implied: by any search."""

    row: str
    name: str
    reported: dict[Quantity, str]
    accuracy_alone: dict[Reading, tuple[int, ...]] | None
    searches: tuple[Search, ...]
    consistent: bool
    implied_right: tuple[int, ...]
    implied_accuracy: tuple[str, ...]
    figure: Figure | None

    @property
    def explained_by(self) -> list[str]:
        """The searches that find a matrix for all averaged figures at once."""
        return [search.label for search in self.searches if search.averages]


class Proportion(Document):
    """An accuracy reported of n images, and which counts of right images are printed like it, by reading."""

    row: str
    quantity: str
    reported: str
    n: int
    counts: dict[Reading, tuple[int, ...]]


class Consistency(Document):
    """What metrics/consistency.json holds; matrices: how many were tried."""

    table: str
    test: Classes
    matrices: int
    rows: tuple[RowFindings, ...]
    proportions: tuple[Proportion, ...]


def label(averaging: str, reading: Reading) -> str:
    """Return the name of a way of averaging and reading."""
    return f"{averaging}, {reading}"


def matches(values: Array | float, printed: str, reading: Reading) -> Mask:
    """Say which values would be printed like this; a value halfway between two digits may round either way."""
    reported, unit = value_and_unit(printed)
    above = np.asarray(values, dtype=np.float64) - reported
    if reading == "rounded":
        return np.asarray(np.abs(above) <= unit / 2 + SLACK)
    return np.asarray((above >= -SLACK) & (above < unit - SLACK))


def averagings(test: Classes) -> Iterator[tuple[str, Figures]]:
    """Yield each averaging's name and its figures [P + 1, N + 1], for tp = 0..P down and tn = 0..N across.

    A ratio with nothing below the line counts as 0, as scikit-learn has it.
    """
    p, n = test.positive.n, test.negative.n
    tp, tn = np.meshgrid(np.arange(p + 1.0), np.arange(n + 1.0), indexing="ij")
    accuracy = (tp + tn) / (p + n)
    positive = _class_figures(tp, predicted=tp + n - tn, actual=p, accuracy=accuracy)
    negative = _class_figures(tn, predicted=tn + p - tp, actual=n, accuracy=accuracy)

    yield f"class {test.positive.name}", positive
    yield f"class {test.negative.name}", negative
    for name, share in (("macro", 0.5), ("weighted", p / (p + n))):
        mean: Figures = {key: share * positive[key] + (1 - share) * negative[key] for key in AVERAGED}
        mean["accuracy"] = accuracy
        yield name, mean
        yield f"{name} (F1 of averages)", mean | {"f1": _harmonic(mean["precision"], mean["recall"])}
    yield "micro", {"accuracy": accuracy, "precision": accuracy, "recall": accuracy, "f1": accuracy}


def _class_figures(right: Array, *, predicted: Array, actual: int, accuracy: Array) -> Figures:
    precision = np.divide(right, predicted, out=np.zeros_like(right), where=predicted > 0)
    recall = right / actual
    return {"accuracy": accuracy, "precision": precision, "recall": recall, "f1": _harmonic(precision, recall)}


def _harmonic(a: Array, b: Array) -> Array:
    return np.divide(2 * a * b, a + b, out=np.zeros_like(a), where=a + b > 0)


def possible_counts(printed: str, n: int) -> dict[Reading, tuple[int, ...]]:
    """Return, for rounded and truncated digits, which counts out of n images are printed like this."""
    shares = np.arange(n + 1) / n
    return {reading: tuple(np.flatnonzero(matches(shares, printed, reading)).tolist()) for reading in READINGS}


def check(paper: Paper) -> Consistency:
    """Return what each row of a paper's table can and cannot come from."""
    test = paper.test
    size = (test.positive.n + 1) * (test.negative.n + 1)
    if size > LARGEST:
        raise InputError(f"{size} confusion matrices are too many to try; at most {LARGEST} can be")
    searches = _search(paper)
    return Consistency(
        table=paper.table,
        test=test,
        matrices=size,
        rows=tuple(_row(paper, name, searches[name]) for name in paper.rows),
        proportions=_proportions(paper),
    )


def _search(paper: Paper) -> dict[str, list[tuple[Search, set[int]]]]:
    """Return per row one search for each averaging and reading, and how many images its matrices get right."""
    found: dict[str, list[tuple[Search, set[int]]]] = {name: [] for name in paper.rows}
    for averaging, figures in averagings(paper.test):
        for name, row in paper.rows.items():
            for reading in READINGS:
                masks = {key: matches(figures[key], text, reading) for key, text in row.reported.items()}
                averages = {key: masks[key] for key in AVERAGED if key in masks}
                if not averages:
                    continue
                at_once: Mask = np.logical_and.reduce(list(averages.values()))
                every = at_once & masks["accuracy"] if "accuracy" in masks else at_once
                cells = np.argwhere(at_once)
                search = Search(
                    averaging=averaging,
                    reading=reading,
                    counts={key: int(mask.sum()) for key, mask in averages.items()},
                    averages=len(cells),
                    all=int(every.sum()),
                    matrices=tuple(_matrix(tp, tn, paper.test, row) for tp, tn in cells[:LISTED].tolist()),
                )
                found[name].append((search, set(cells.sum(axis=1).tolist())))
    return found


def _matrix(tp: int, tn: int, test: Classes, row: Row) -> OneMatrix:
    return OneMatrix(
        tn=tn,
        fp=test.negative.n - tn,
        fn=test.positive.n - tp,
        tp=tp,
        right=tp + tn,
        accuracy=_printed_like(row.accuracy, (tp + tn) / test.n),
    )


def _printed_like(printed: str | None, value: float) -> str:
    """Print a fraction with as many digits as the paper gives its accuracy, or as a per cent with two."""
    printed = printed or "00.00%"
    digits = len(printed.removesuffix("%").partition(".")[2])
    return f"{100 * value:.{digits}f}%" if printed.endswith("%") else f"{value:.{digits}f}"


def _row(paper: Paper, name: str, searches: list[tuple[Search, set[int]]]) -> RowFindings:
    row = paper.rows[name]
    alone = possible_counts(row.accuracy, paper.test.n) if row.accuracy else None
    right = sorted(set().union(*(counts for _, counts in searches)))
    possible = [search.all > 0 for search, _ in searches] or [bool(counts) for counts in (alone or {}).values()]
    return RowFindings(
        row=name,
        name=row.name,
        reported=row.reported,
        accuracy_alone=alone,
        searches=tuple(search for search, _ in searches),
        consistent=any(possible),
        implied_right=tuple(right),
        implied_accuracy=tuple(_printed_like(row.accuracy, count / paper.test.n) for count in right),
        figure=_figure(paper, name),
    )


def _figure(paper: Paper, name: str) -> Figure | None:
    """Return what the row's printed confusion matrix gives: of its own row and of the others."""
    row = paper.rows[name]
    if row.matrix is None:
        return None
    m = row.matrix
    explains: dict[str, list[str]] = {other: [] for other in paper.rows}
    for averaging, figures in averagings(paper.test):
        for other, candidate in paper.rows.items():
            averages = {key: text for key, text in candidate.reported.items() if key in AVERAGED}
            for reading in READINGS:
                given = [bool(matches(figures[key][m.tp, m.tn], text, reading)) for key, text in averages.items()]
                if given and all(given):
                    explains[other].append(label(averaging, reading))
    accuracy = (m.tp + m.tn) / paper.test.n
    return Figure(
        **_matrix(m.tp, m.tn, paper.test, row).model_dump(),
        gives_accuracy=row.accuracy is not None
        and any(bool(matches(accuracy, row.accuracy, reading)) for reading in READINGS),
        gives=tuple(explains[name]),
        explains=tuple(other for other, ways in explains.items() if ways),
        same_as=tuple(other for other, its in paper.rows.items() if other != name and its.matrix == m),
    )


def _proportions(paper: Paper) -> tuple[Proportion, ...]:
    """Return which counts of images can give the train and validation accuracies."""
    if paper.n is None:
        return ()
    return tuple(
        Proportion(row=name, quantity=quantity, reported=printed, n=n, counts=possible_counts(printed, n))
        for name, row in paper.rows.items()
        for quantity, printed, n in (
            ("train_accuracy", row.train_accuracy, paper.n.train),
            ("validation_accuracy", row.validation_accuracy, paper.n.validation),
        )
        if printed is not None
    )
