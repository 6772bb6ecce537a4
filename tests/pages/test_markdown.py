"""Markdown for every page: tables that GitHub reads, lines of one width, and whose images the results are of."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from faces.pages import markdown


def test_numbers_are_aligned_right_and_words_left() -> None:
    text = markdown.table(
        ("run", "accuracy", "n", "p"),
        [("a", "**92.3% (88.7 to 94.8)**", 300, "-"), ("b", "-", 7, 0.5), ("c", "", 12, "-0.1")],
    )
    assert text.splitlines()[1].replace("-", "") == "|:|:|:|:|"
    assert [cell.strip("- ") for cell in text.splitlines()[1].strip("|").split("|")] == [":", ":", ":", ":"]
    marks = [(cell[0], cell[-1]) for cell in text.splitlines()[1].strip("|").split("|")]
    assert marks == [(":", "-"), ("-", ":"), ("-", ":"), ("-", ":")]
    words = markdown.table(("x",), [("3 of them",), ("none",)]).splitlines()[1]
    assert words.startswith("|:")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(
            st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), max_size=9), min_size=2, max_size=2
        ),
        max_size=4,
    )
)
def test_every_cell_comes_back_as_it_was(rows: list[list[str]]) -> None:
    text = markdown.table(("first|one", "second"), rows)
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    assert [token.type for token in tokens].count("tr_open") == 1 + len(rows)
    assert [token.type for token in tokens].count("th_open") == 2
    for line, row in zip(text.splitlines()[2:], rows, strict=True):
        cells = [cell.strip() for cell in line.replace("\\|", "\x00").strip("|").split("|")]
        assert [cell.replace("\x00", "|") for cell in cells] == row


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from(["word", "1.", "2)", "-", "+", "*", "#", ">", "`a b`", "(3", "to", "94.8)"]), min_size=1)
)
def test_filling_changes_line_ends_and_nothing_else(words: list[str]) -> None:
    paragraph = " ".join(["Begin", *words * 7])
    text = markdown.filled(paragraph)
    assert " ".join(text.split()) == paragraph
    types = [token.type for token in MarkdownIt("commonmark").parse(text)]
    assert types == ["paragraph_open", "inline", "paragraph_close"]


def test_filled_lines_have_one_width_and_blocks_one_blank_line_between() -> None:
    sentence = "Nine words make this sentence, which is said again. " * 5
    text = markdown.filled(f"# Title\n\n\n\n{sentence}\n\n- {sentence}\n- b\n\n| {'x' * 120} |\n|---|\n")
    title, paragraph, items, rows = text.split("\n\n")
    assert title == "# Title"
    assert max(map(len, paragraph.splitlines())) <= markdown.WIDTH
    assert len(paragraph.splitlines()) == 3
    assert items.splitlines()[1].startswith("  ")
    assert items.splitlines()[-1] == "- b"
    assert rows == f"| {'x' * 120} |\n|---|\n"


@pytest.mark.parametrize(
    ("source", "mark", "marked"),
    [
        ("kaggle", "", ""),
        ("sample", "sample: drawn faces", " (sample: drawn faces)"),
        ("own", "own images, not the paper's", " (own images, not the paper's)"),
    ],
)
def test_the_mark_of_whose_images_these_are(source: str, mark: str, marked: str) -> None:
    assert (markdown.mark(source), markdown.marked(source)) == (mark, marked)


def test_headings_are_shifted() -> None:
    assert markdown.shifted("# a\ntext # b\n## c\n", 2) == "### a\ntext # b\n#### c"


def test_html_escapes_what_is_inside_and_keeps_intervals_together() -> None:
    html = markdown.to_html("# a <b>\n\n| x |\n|---|\n| 1.0% (0.5 to 2.0), trial 2, 3 min |\n", 1)
    assert html.startswith("<h2>a &lt;b&gt;</h2>")
    assert '<div class="scroll" role="region" aria-label="table" tabindex="0"><table>' in html
    assert "1.0% (0.5\u00a0to\u00a02.0), trial\u00a02, 3\u00a0min" in html
