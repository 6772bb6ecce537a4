"""The search over confusion matrices against scikit-learn matrix by matrix, and what it finds in the paper."""

import subprocess
import sys
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from faces.cli import InputError
from faces.evidence import consistency
from faces.evidence.documents import read_document
from faces.evidence.paper import Classes, Paper, load_paper, value_and_unit
from faces.pages import sentences
from stages.consistency import main

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "paper.yaml"


def make_paper(positive: int, negative: int, **row: Any) -> Paper:
    return Paper.model_validate(
        {
            "title": "A paper",
            "table": "Table 1",
            "test": {"positive": {"name": "ill", "n": positive}, "negative": {"name": "well", "n": negative}},
            "rows": {"run": {"name": "the run", **row}},
        }
    )


def labels(tp: int, tn: int, positive: int, negative: int) -> tuple[list[int], list[int]]:
    """Return y_true and y_pred with this confusion matrix."""
    y_true = [1] * positive + [0] * negative
    y_pred = [1] * tp + [0] * (positive - tp) + [0] * tn + [1] * (negative - tn)
    return y_true, y_pred


def by_scikit_learn(averaging: str, y_true: list[int], y_pred: list[int]) -> dict[str, float]:
    """Return accuracy, precision, recall and F1 as scikit-learn computes them."""
    name = averaging.split(" (")[0]
    if name.startswith("class"):
        options: dict[str, Any] = {"average": "binary", "pos_label": int(name == "class ill")}
    else:
        options = {"average": name}
    p, r, f1, _ = sk.precision_recall_fscore_support(y_true, y_pred, labels=[0, 1], zero_division=0, **options)
    if "F1 of averages" in averaging:
        f1 = 2 * p * r / (p + r) if p + r else 0
    return {"accuracy": sk.accuracy_score(y_true, y_pred), "precision": p, "recall": r, "f1": f1}


@pytest.mark.filterwarnings("ignore:Note that pos_label")
def test_every_matrix_of_a_small_test_set_equals_scikit_learn() -> None:
    positive, negative = 4, 3
    test = Classes.model_validate({"positive": {"name": "ill", "n": 4}, "negative": {"name": "well", "n": 3}})
    found = dict(consistency.averagings(test))
    assert len(found) == 7
    for averaging, figures in found.items():
        for tp, tn in product(range(positive + 1), range(negative + 1)):
            expected = by_scikit_learn(averaging, *labels(tp, tn, positive, negative))
            here = {key: float(values[tp, tn]) for key, values in figures.items()}
            assert here == pytest.approx(expected, abs=1e-12), (averaging, tp, tn)


def printed(value: float, digits: int, how: str) -> str:
    """Print with decimal arithmetic, half up or cut off."""
    exact = Decimal(repr(value)).quantize(Decimal(1).scaleb(-12), ROUND_HALF_UP)  # without float's last digits
    return str(exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP if how == "rounded" else ROUND_DOWN))


@given(st.data(), st.sampled_from(consistency.READINGS), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_what_a_real_matrix_prints_is_found_consistent(data: st.DataObject, reading: str, digits: int) -> None:
    positive, negative = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    tp, tn = data.draw(st.integers(0, positive)), data.draw(st.integers(0, negative))
    test = make_paper(positive, negative, accuracy="0").test
    averaging, figures = data.draw(st.sampled_from(list(consistency.averagings(test))))
    row = {key: printed(float(values[tp, tn]), digits, reading) for key, values in figures.items()}
    document = consistency.check(make_paper(positive, negative, **row))
    found = document.rows[0]
    assert found.consistent
    search = next(s for s in found.searches if (s.averaging, s.reading) == (averaging, reading))
    assert search.all >= 1
    assert sentences.consistency(document).startswith("Each row of Table 1 can come from one of the")


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_counts_of_a_search_equal_plain_loops(data: st.DataObject) -> None:
    positive, negative = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    row = {key: f"0.{data.draw(st.integers(0, 99)):02}" for key in ("accuracy", "precision", "recall", "f1")}
    found = consistency.check(make_paper(positive, negative, **row)).rows[0]
    search = next(s for s in found.searches if (s.averaging, s.reading) == ("macro", "truncated"))
    counts = dict.fromkeys(("precision", "recall", "f1", "averages", "all"), 0)
    for tp, tn in product(range(positive + 1), range(negative + 1)):
        figures = by_scikit_learn("macro", *labels(tp, tn, positive, negative))
        same = {key: printed(value, 2, "truncated") == row[key] for key, value in figures.items()}
        three = all(same[key] for key in ("precision", "recall", "f1"))
        for key, hit in (same | {"averages": three, "all": three and same["accuracy"]}).items():
            if key in counts:
                counts[key] += hit
    assert {**search.counts, "averages": search.averages, "all": search.all} == counts


@pytest.mark.parametrize(
    ("value", "text", "rounded", "truncated"),
    [
        (0.8350168, "0.8350", True, True),
        (0.83496, "0.8350", True, False),
        (0.83506, "0.8350", False, True),
        (0.83506, "0.835", True, True),  # a digit less says less
        (0.5, "0.5", True, True),
        (0.125, "0.13", True, False),  # halfway: up or down
        (0.125, "0.12", True, True),
        (261 / 297, "87.88%", True, False),
        (0.1 + 0.2, "0.30", True, True),  # float error is no digit
        (0.3 - 1e-17, "0.3", True, True),
        (1.0, "100%", True, True),
    ],
)
def test_matches_reads_digits_as_printed(value: float, text: str, rounded: bool, truncated: bool) -> None:
    assert bool(consistency.matches(value, text, "rounded")) is rounded
    assert bool(consistency.matches(value, text, "truncated")) is truncated


def test_value_and_unit() -> None:
    assert value_and_unit("82.83%") == pytest.approx((0.8283, 0.0001))
    assert value_and_unit("0.8350") == pytest.approx((0.835, 0.0001))
    assert value_and_unit("98.7%") == pytest.approx((0.987, 0.001))


def test_possible_counts_is_grim() -> None:
    # the smallest example of GRIM: a mean of 3.47 over 28 whole numbers is impossible; here shares of n images
    assert consistency.possible_counts("0.47", 28) == {"rounded": (), "truncated": ()}
    assert consistency.possible_counts("0.46", 28) == {"rounded": (13,), "truncated": (13,)}


@pytest.fixture(scope="module")
def findings() -> consistency.Consistency:
    return consistency.check(load_paper(PAPER))


@pytest.mark.parametrize(
    ("index", "right", "accuracy", "cells"),
    [(0, 248, "83.50%", (130, 20, 29, 118)), (1, 266, "89.56%", None), (2, 245, "82.49%", (118, 32, 20, 127))],
)
def test_the_papers_rows(
    findings: consistency.Consistency, index: int, right: int, accuracy: str, cells: tuple[int, ...] | None
) -> None:
    row = findings.rows[index]
    assert not row.consistent
    assert (row.implied_right, row.implied_accuracy) == ((right,), (accuracy,))
    assert "weighted, rounded" in row.explained_by
    search = next(s for s in row.searches if s.label == "weighted, rounded")
    if cells:
        assert [(m.tn, m.fp, m.fn, m.tp) for m in search.matrices] == [cells]
    for m in search.matrices:  # what the search says of a matrix, scikit-learn says too
        y_true, y_pred = labels(m.tp, m.tn, 147, 150)
        figures = by_scikit_learn("weighted", y_true, y_pred)
        for key in ("precision", "recall", "f1"):
            assert f"{figures[key]:.4f}" == row.reported[key]
        assert f"{figures['accuracy']:.2%}" == m.accuracy != row.reported["accuracy"]


def test_the_papers_printed_matrices(findings: consistency.Consistency) -> None:
    first, second, third = (row.figure for row in findings.rows)
    assert first
    assert second
    assert third
    assert (first.right, second.right, third.right) == (245, 266, 245)
    assert not any(figure.gives_accuracy for figure in (first, second, third))
    assert (first.same_as, first.gives, first.explains) == (("trial3",), (), ("trial3",))
    assert third.gives == ("weighted, rounded",)
    assert "weighted, rounded" in second.gives


def test_the_summary_is_from_the_findings(findings: consistency.Consistency) -> None:
    summary = sentences.consistency(findings)
    for row in findings.rows:
        assert (
            f"Precision, recall and F1 of {row.name} belong to an accuracy of {row.implied_accuracy[0]}; "
            f"{row.reported['accuracy']} is reported." in summary
        )
    assert summary.startswith("None of the 22,348 confusion matrices that 147 Down syndrome and 150 healthy")
    assert "Only rounded weighted averages fit all of them." in summary
    assert "No printed matrix gives its row's accuracy." in summary
    assert "matrices of trial 2 and trial 3 give their rows' precision, recall and F1." in summary
    assert summary.endswith("The printed matrices of trial 1 and trial 3 are the same.")


def test_each_row_in_words(findings: consistency.Consistency) -> None:
    assert sentences.row(findings.rows[0], findings) == [
        "Accuracy 82.83% alone: 246 (rounded) of 297 images right.",
        "Precision, recall and F1 can come from one matrix as weighted, rounded.",
        "As weighted, rounded: TN 130, FP 20, FN 29, TP 118: 248 right.",
        "Then the accuracy would have been 83.50%, not 82.83%: the row cannot come from one matrix.",
        "The printed matrix (TN 118, FP 32, FN 20, TP 127: 245 right) has accuracy 82.49%, not 82.83%.",
        "It does not give this row's precision, recall and F1; it gives those of trial 3.",
        "The same matrix is printed for trial 3.",
    ]
    assert "All its figures can come from one matrix: consistent." in words(2, 2, accuracy="75%", recall="0.5")
    assert "No averaging, rounded or truncated, gives recall from one matrix." in words(2, 2, recall="0.33")


def words(positive: int, negative: int, **row: str) -> list[str]:
    found = consistency.check(make_paper(positive, negative, **row))
    return sentences.row(found.rows[0], found)


def test_validation_accuracy_that_no_count_gives(findings: consistency.Consistency) -> None:
    found = {(item.row, item.quantity): item.counts for item in findings.proportions}
    assert found["trial2", "validation_accuracy"]["rounded"] == ()
    assert not [k for k in range(605) if f"{k / 604:.2%}" == "86.40%"]
    expected = tuple(k for k in range(2100) if f"{k / 2099:.2%}" == "88.80%")
    assert found["trial3", "train_accuracy"]["rounded"] == expected


def test_a_row_with_accuracy_alone_and_one_without() -> None:
    row = consistency.check(make_paper(3, 4, accuracy="43%")).rows[0]
    assert (row.consistent, row.searches, row.figure) == (True, (), None)
    row = consistency.check(make_paper(3, 4, accuracy="44%")).rows[0]
    assert not row.consistent
    assert words(3, 4, accuracy="44%") == ["Accuracy 44% alone: no number of 7 images right."]
    row = consistency.check(make_paper(3, 4, recall="0.6667")).rows[0]
    assert row.consistent
    assert "class ill, rounded" in row.explained_by


def test_f1_below_both_its_parts_cannot_be_their_harmonic_mean(findings: consistency.Consistency) -> None:
    # the harmonic mean of two numbers lies between them, so the paper's trial 1 is no single class's
    for search in findings.rows[0].searches:
        if search.averaging.startswith(("class", "micro")) or "F1 of" in search.averaging:
            assert search.averages == 0


def test_main_writes_the_same_bytes_twice(tmp_path: Path, findings: consistency.Consistency) -> None:
    first, second = (tmp_path / name / "new" / "c.json" for name in ("a", "b"))
    main(PAPER, first)
    main(PAPER, second)
    assert first.read_bytes() == second.read_bytes()
    assert read_document(consistency.Consistency, first) == findings


def spoil(change: dict[str, Any]) -> str:
    values = yaml.safe_load(PAPER.read_text())
    values["rows"]["trial1"].update(change)
    return yaml.safe_dump(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (spoil({"precision": 0.835}), r"rows.trial1.precision: must stand in quotes"),
        (spoil({"precision": "high"}), r"rows.trial1.precision"),
        (spoil({"precison": "0.8"}), r"rows.trial1.precison"),
        (spoil({"matrix": {"tn": 1, "fp": 2, "fn": 3, "tp": 4}}), "rows.trial1.matrix does not add up"),
        ("a: [", "is not valid YAML"),
        ("", "file: Input should be"),
    ],
)
def test_a_bad_table_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        main(path, tmp_path / "c.json")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "c.json").exists()


def test_too_many_matrices_are_refused() -> None:
    with pytest.raises(InputError, match="too many to try"):
        consistency.check(make_paper(3000, 3000, accuracy="0.5"))


def test_the_command_without_a_table_exits_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stages.consistency", "absent.yaml", tmp_path / "a"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: absent.yaml is not there; give the YAML file of a paper's table\n"


def test_counts_in_words() -> None:
    assert sentences.counts({"rounded": (2, 3, 4), "truncated": (2, 3)}) == "2 to 4 (rounded) or 2 or 3 (truncated)"
    assert sentences.counts({"rounded": (1,), "truncated": (1,)}) == "1 (either way)"


@given(st.integers(1, 400), st.data())
@settings(max_examples=25, deadline=None)
def test_possible_counts_equal_decimal_printing(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    tail = (k * 10_000 * 10 // n) % 10  # leave exact halves to the case above
    assume(tail != 5)
    for reading in consistency.READINGS:
        text = printed(k / n, 4, reading)
        expected = [j for j in range(n + 1) if printed(j / n, 4, reading) == text]
        found = consistency.possible_counts(text, n)[reading]
        assert set(expected) <= set(found)
        assert all(abs(np.array(found) / n - float(text)) <= 1e-4)
