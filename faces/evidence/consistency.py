"""Can a reported row come from any confusion matrix at all? Every matrix is tried, as GRIM tries every mean.

With P positive and N negative test images there are (P + 1)(N + 1) confusion matrices, few enough to compute all.
For each averaging of precision, recall and F1, and for rounded and truncated digits, a printed figure is possible
if some matrix gives it, and a row is consistent if one matrix gives all its figures.

GRIM: Brown, N. J. L., Heathers, J. A. J. (2017). The GRIM test. Social Psychological and Personality Science 8,
363-369. The two F1 of averages: Opitz, J., Burst, S. (2019). Macro F1 and macro F1. arXiv:1911.03347.
"""

import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from faces.cli import InputError
from faces.evidence.paper import Classes, Paper, Quantity, Row, value_and_unit
from faces.evidence.statistics import Array

Mask = npt.NDArray[np.bool_]
Figures = dict[Quantity, Array]
Reading = Literal["rounded", "truncated"]
READINGS: tuple[Reading, ...] = get_args(Reading)
TOGETHER: tuple[Quantity, ...] = ("precision", "recall", "f1")
LETTERS = {"precision": "P", "recall": "R", "f1": "F1"}

LARGEST = 4_000_000  # matrices; beyond this the arrays outgrow a small machine's memory
SLACK = 1e-13  # far above float error, far below the distance of two matrices' figures
LISTED = 5  # matrices written out per search
BATCHED = "An accuracy that was averaged over batches of unequal size can take other values than these."


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
        mean: Figures = {key: share * positive[key] + (1 - share) * negative[key] for key in TOGETHER}
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


def possible_counts(printed: str, n: int) -> dict[str, list[int]]:
    """Return, for rounded and truncated digits, which counts out of n images are printed like this."""
    shares = np.arange(n + 1) / n
    return {reading: np.flatnonzero(matches(shares, printed, reading)).tolist() for reading in READINGS}


def check(paper: Paper) -> dict[str, Any]:
    """Return what each row of a paper's table can and cannot come from (shape: the keys below)."""
    test = paper.test
    size = (test.positive.n + 1) * (test.negative.n + 1)
    if size > LARGEST:
        raise InputError(f"{size} confusion matrices are too many to try; at most {LARGEST} can be")
    searches = _search(paper)
    rows = [_row(paper, name, searches) for name in paper.rows]
    explains = Counter(label for row in rows for label in row["explained_by"])
    for row in rows:
        row["sentences"] = _sentences(row, paper, explains)
    document = {
        "title": paper.title,
        "table": paper.table,
        "n": {"positive": test.positive.n, "negative": test.negative.n, "total": test.total},
        "names": {"positive": test.positive.name, "negative": test.negative.name},
        "matrices": size,
        "rows": rows,
        "proportions": _proportions(paper),
    }
    return document | {"summary": _summary(document)}


def _search(paper: Paper) -> dict[str, list[dict[str, Any]]]:
    """Return per row one search for each averaging and reading: how many matrices give what, and which."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in paper.rows}
    for averaging, figures in averagings(paper.test):
        for name, row in paper.rows.items():
            for reading in READINGS:
                masks = {key: matches(figures[key], text, reading) for key, text in row.reported.items()}
                three = [masks[key] for key in TOGETHER if key in masks]
                if not three:
                    continue
                together: Mask = np.logical_and.reduce(three)
                everything = together & masks["accuracy"] if "accuracy" in masks else together
                cells = np.argwhere(together)
                found[name].append(
                    {"averaging": averaging, "reading": reading}
                    | {key: int(masks[key].sum()) for key in TOGETHER if key in masks}
                    | {"together": len(cells), "all": int(everything.sum())}
                    | {"matrices": [_matrix(tp, tn, paper.test, row) for tp, tn in cells[:LISTED].tolist()]}
                    | {"right": sorted(set(cells.sum(axis=1).tolist()))}
                )
    return found


def _matrix(tp: int, tn: int, test: Classes, row: Row) -> dict[str, Any]:
    return {
        "tn": tn,
        "fp": test.negative.n - tn,
        "fn": test.positive.n - tp,
        "tp": tp,
        "right": tp + tn,
        "accuracy": _printed_like(row.accuracy, (tp + tn) / test.total),
    }


def _printed_like(printed: str | None, value: float) -> str:
    """Print a fraction with as many digits as the paper gives its accuracy, or as a per cent with two."""
    printed = printed or "00.00%"
    digits = len(printed.removesuffix("%").partition(".")[2])
    return f"{100 * value:.{digits}f}%" if printed.endswith("%") else f"{value:.{digits}f}"


def _row(paper: Paper, name: str, searches: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    row = paper.rows[name]
    explained = [search for search in searches[name] if search["together"]]
    alone = possible_counts(row.accuracy, paper.test.total) if row.accuracy else None
    right = sorted({count for search in explained for count in search["right"]})
    if searches[name]:
        consistent = any(search["all"] for search in searches[name])
    else:
        consistent = any(alone.values()) if alone else False
    return {
        "row": name,
        "name": row.name,
        "reported": dict(row.reported),
        "accuracy_alone": alone,
        "searches": [{key: value for key, value in search.items() if key != "right"} for search in searches[name]],
        "explained_by": [_label(search) for search in explained],
        "consistent": consistent,
        "implied_right": right,
        "implied_accuracy": [_printed_like(row.accuracy, count / paper.test.total) for count in right],
        "figure": _figure(paper, name),
    }


def _label(search: dict[str, Any]) -> str:
    return f"{search['averaging']}, {search['reading']}"


def _figure(paper: Paper, name: str) -> dict[str, Any] | None:
    """Return what the row's printed confusion matrix gives: of its own row and of the others."""
    row = paper.rows[name]
    if row.matrix is None:
        return None
    m = row.matrix
    explains: dict[str, list[str]] = {other: [] for other in paper.rows}
    for averaging, figures in averagings(paper.test):
        for other, candidate in paper.rows.items():
            three = {key: text for key, text in candidate.reported.items() if key in TOGETHER}
            for reading in READINGS:
                if three and all(matches(figures[key][m.tp, m.tn], text, reading) for key, text in three.items()):
                    explains[other].append(f"{averaging}, {reading}")
    alike = [other for other, candidate in paper.rows.items() if other != name and candidate.matrix == m]
    accuracy = (m.tp + m.tn) / paper.test.total
    return _matrix(m.tp, m.tn, paper.test, row) | {
        "gives_accuracy": bool(row.accuracy)
        and any(bool(matches(accuracy, row.accuracy or "", reading)) for reading in READINGS),
        "gives": explains[name],
        "explains": [other for other, ways in explains.items() if ways],
        "same_as": alike,
    }


def _proportions(paper: Paper) -> list[dict[str, Any]]:
    """Return which counts of images can give the train and validation accuracies."""
    if paper.n is None:
        return []
    return [
        {"row": name, "name": row.name, "quantity": f"{subset} accuracy", "reported": printed, "n": n}
        | possible_counts(printed, n)
        for name, row in paper.rows.items()
        for subset, printed, n in (
            ("train", row.train_accuracy, paper.n.train),
            ("validation", row.validation_accuracy, paper.n.validation),
        )
        if printed is not None
    ]


def _sentences(row: dict[str, Any], paper: Paper, explains: Counter[str]) -> list[str]:
    """Say in words what can and cannot be of one row; `explains` counts the rows that a search explains."""
    total, reported = paper.test.total, row["reported"]
    three = [key for key in TOGETHER if key in reported]
    names = _listed([_word(key) for key in three])
    sentences = []
    if row["accuracy_alone"]:
        counts = counts_in_words(row["accuracy_alone"])
        sentences.append(f"Accuracy {reported['accuracy']} alone: {counts} of {total} images right.")
    if three and not row["explained_by"]:
        sentences.append(f"No averaging, rounded or truncated, gives {names} together from one matrix.")
    elif three:
        sentences.append(f"{names[0].upper()}{names[1:]} come together from {_ways(row['explained_by'])}.")
        best = max((s for s in row["searches"] if s["together"]), key=lambda s: explains[_label(s)])
        shown = " or ".join(_cells(matrix) for matrix in best["matrices"])
        more = " and others" if best["together"] > LISTED else ""
        sentences.append(f"As {_label(best)}: {shown}{more}.")
    if three and "accuracy" in reported:
        if row["consistent"]:
            sentences.append("All its figures can come from one matrix: consistent.")
        elif row["explained_by"]:
            sentences.append(
                f"Then the accuracy would have been {_listed(row['implied_accuracy'], 'or')}, "
                f"not {reported['accuracy']}: the row cannot come from one matrix."
            )
    return sentences + _figure_sentences(row, paper)


def _figure_sentences(row: dict[str, Any], paper: Paper) -> list[str]:
    figure = row["figure"]
    if figure is None:
        return []
    start = f"The printed matrix ({_cells(figure)}) has accuracy {figure['accuracy']}"
    reported = row["reported"].get("accuracy")
    if reported:
        start += ", as reported" if figure["gives_accuracy"] else f", not {reported}"
    sentences = [start + "."]
    names = _listed([_word(key) for key in TOGETHER if key in row["reported"]])
    if figure["gives"]:
        sentences.append(f"It gives this row's {names}: {_ways(figure['gives'])}.")
    elif names:
        others = [paper.rows[other].name for other in figure["explains"]]
        instead = f", but those of {_listed(others)}" if others else ""
        sentences.append(f"It does not give this row's {names}{instead}.")
    if figure["same_as"]:
        same = _listed([paper.rows[other].name for other in figure["same_as"]])
        sentences.append(f"It is the same matrix as that of {same}.")
    return sentences


def _summary(document: dict[str, Any]) -> str:
    """Return the findings in two sentences, or one where the paper prints no confusion matrix."""
    rows, n, names = document["rows"], document["n"], document["names"]
    bad = [row for row in rows if not row["consistent"]]
    space = (
        f"{document['matrices']:,} confusion matrices that {n['positive']} {names['positive']} and "
        f"{n['negative']} {names['negative']} test images allow"
    )
    if not bad:
        first = f"Each row of {document['table']} can come from one of the {space}"
    elif len(bad) == len(rows):
        first = f"None of the {space} gives all figures of any row of {document['table']}"
    else:
        first = (
            f"Of the {space}, none gives all figures of {_listed([row['name'] for row in bad])} "
            f"in {document['table']}; the other rows can each come from one"
        )
    implied = [row for row in bad if row["implied_right"] and "accuracy" in row["reported"]]
    if implied:
        way = _shared_way(implied)
        several = len(implied) > 1
        fits = f" (only {way} averages fit {'all' if several else 'them'})" if way else ""
        first += (
            f": precision, recall and F1 of {_listed([row['name'] for row in implied])}"
            f"{fits} belong to "
            f"{'accuracies' if several else 'an accuracy'} of "
            f"{_listed([_listed(row['implied_accuracy'], 'or') for row in implied])}, where "
            f"{_listed([row['reported']['accuracy'] for row in implied])} {'are' if several else 'is'} reported"
        )
    figures = [row for row in rows if row["figure"]]
    if not figures:
        return first + "."
    return f"{first}. {_figures_summary(figures, {row['row']: row['name'] for row in rows})}"


def _shared_way(rows: list[dict[str, Any]]) -> str:
    """Return the one averaging and reading that explains every one of these rows, or nothing."""
    shared = set.intersection(*(set(row["explained_by"]) for row in rows))
    return " ".join(reversed(shared.pop().rsplit(", ", 1))) if len(shared) == 1 else ""


def _figures_summary(rows: list[dict[str, Any]], names: dict[str, str]) -> str:
    with_accuracy = [row["name"] for row in rows if row["figure"]["gives_accuracy"]]
    with_three = [row["name"] for row in rows if row["figure"]["gives"]]
    alike = sorted({tuple(sorted([row["row"], *row["figure"]["same_as"]])) for row in rows if row["figure"]["same_as"]})
    text = (
        f"Of the {len(rows)} printed confusion matrices, {_which(with_accuracy)} the row's accuracy and "
        f"{_which(with_three)} the row's precision, recall and F1"
    )
    for group in alike:
        text += f"; those of {_listed([names[name] for name in group])} are one and the same"
    return text + "."


def _which(names: list[str]) -> str:
    if not names:
        return "none gives"
    return f"{'that' if len(names) == 1 else 'those'} of {_listed(names)} {'gives' if len(names) == 1 else 'give'}"


def _word(quantity: str) -> str:
    return "F1" if quantity == "f1" else quantity


def _listed(words: list[str], last: str = "and") -> str:
    return " ".join([", ".join(words[:-1]), last, words[-1]]) if len(words) > 1 else "".join(words)


def _ways(labels: list[str]) -> str:
    """Shorten "macro, rounded" and "macro, truncated" to "macro, rounded or truncated", and so on."""
    readings: dict[str, list[str]] = {}
    for label in labels:
        averaging, reading = label.rsplit(", ", 1)
        readings.setdefault(averaging, []).append(reading)
    by_reading: dict[str, list[str]] = {}
    for averaging, found in readings.items():
        by_reading.setdefault(" or ".join(found), []).append(averaging)
    return "; ".join(f"{_listed(found, 'or')}, {reading}" for reading, found in by_reading.items())


def counts_in_words(counts: dict[str, list[int]]) -> str:
    """Say which counts give a proportion: "246 (rounded)", "1864 (either way)", "no number"."""
    readings: dict[str, list[str]] = {}
    for reading in READINGS:
        if values := counts[reading]:
            text = f"{values[0]} to {values[-1]}" if len(values) > 2 else " or ".join(map(str, values))
            readings.setdefault(text, []).append(reading)
    return " or ".join(
        f"{text} ({ways[0] if len(ways) == 1 else 'either way'})" for text, ways in readings.items()
    ) or ("no number")


def _cells(matrix: dict[str, Any]) -> str:
    cells = ", ".join(f"{key.upper()} {matrix[key]}" for key in ("tn", "fp", "fn", "tp"))
    return f"{cells}: {matrix['right']} right"


def markdown(document: dict[str, Any]) -> str:
    """Return the findings as a page: summary, one table, then each row in words."""
    n, names = document["n"], document["names"]
    rows = [
        {
            "row": row["name"],
            "accuracy": row["reported"].get("accuracy", ""),
            "needs right": counts_in_words(row["accuracy_alone"]) if row["accuracy_alone"] else "",
            "P, R, F1 need": _listed([str(count) for count in row["implied_right"]], "or") or "none",
            "accuracy then": _listed(row["implied_accuracy"], "or"),
            "printed matrix": f"{row['figure']['right']} right, {row['figure']['accuracy']}" if row["figure"] else "",
            "possible": "yes" if row["consistent"] else "no",
        }
        for row in document["rows"]
    ]
    page = [
        f"# {document['table']} against itself",
        document["summary"],
        _table(rows),
        f"All {document['matrices']:,} confusion matrices of {n['positive']} {names['positive']} (positive) and "
        f"{n['negative']} {names['negative']} test images were tried, with precision, recall and F1 of either class, "
        "macro, weighted (F1 as the average of F1s and as the F1 of the averages) and micro, rounded and truncated.",
    ]
    for row in document["rows"]:
        page += [f"## {row['name']}", _bullets(row["sentences"])]
        if row["searches"]:
            page += [_searches_table(row)]
    if document["proportions"]:
        page += ["## Train and validation accuracy", _proportions_table(document["proportions"]), BATCHED]
    return "\n\n".join(part if part[0] in "#|-" else textwrap.fill(part, 110) for part in page) + "\n"


def _bullets(sentences: list[str]) -> str:
    return "\n".join(textwrap.fill(f"- {sentence}", 110, subsequent_indent="  ") for sentence in sentences)


def _searches_table(row: dict[str, Any]) -> str:
    """Return how many matrices give each figure, without the averagings that give none."""
    return _table(
        [
            {"matrices that give": _label(search)}
            | {f"{LETTERS[key]} {row['reported'][key]}": search[key] for key in TOGETHER if key in search}
            | {"all three": search["together"], "and accuracy": search["all"]}
            for search in row["searches"]
            if any(search[key] for key in TOGETHER if key in search)
        ]
        or [{"matrices that give": "none of the figures"}]
    )


def _proportions_table(proportions: list[dict[str, Any]]) -> str:
    return _table(
        [
            {
                "row": item["name"],
                "figure": item["quantity"],
                "reported": item["reported"],
                "images right": f"{counts_in_words(item)} of {item['n']}",
            }
            for item in proportions
        ]
    )


def _table(rows: list[dict[str, Any]]) -> str:
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
