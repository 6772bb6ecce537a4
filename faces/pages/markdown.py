"""Markdown for every page: tables, line width, the mark of whose images these are, and the same text as HTML."""

import re
import textwrap
from collections.abc import Iterable, Sequence

import pandas as pd
from markdown_it import MarkdownIt
from markupsafe import Markup

from faces.cli import InputError

WIDTH = 100  # of lines; a table's rows may be longer
NUMBER = re.compile(r"[*(]*[-+]?\d")  # how the cells of a column of numbers begin
UNBROKEN = re.compile(r"\(?-?[\d.]+ to -?[\d.]+\)?|\b\d+ (?:min|h|s)\b|\btrial \d")  # kept on one line of HTML
NOT_PROSE = ("#", "|", ">", "<!--", "```")  # a block that begins like this is not filled
LIKE_A_MARKER = re.compile(r" (?=(?:\d+[.)]|[-+*>]|#+)(?: |$))")  # would begin a list or a heading on a new line


def mark(source: str) -> str:
    """Return what results that are not of the paper's images are marked with, or nothing."""
    return {"kaggle": "", "sample": "sample: drawn faces"}.get(source, "own images, not the paper's")


def marked(source: str) -> str:
    """Return the mark as the end of a heading: " (sample: drawn faces)", or nothing."""
    return f" ({mark(source)})" if mark(source) else ""


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; a column of numbers is right-aligned, with or without cells that hold "-" or nothing."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    columns = list(zip(*cells, strict=True)) or [()] * len(header)
    aligned = ["right" if _numbers(column) else "left" for column in columns]
    frame = pd.DataFrame(cells, columns=[name.replace("|", "\\|") for name in header])
    return frame.to_markdown(index=False, disable_numparse=True, colalign=aligned if cells else None)


def replaced(name: str, text: str, marks: tuple[str, str], block: str) -> str:
    """Return a page with what is between its two marks replaced by a block, which ends with a newline.

    name: the page's, for the error. Errors: InputError if the marks are not there, once each.
    """
    start, end = marks
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise InputError(f"{name} needs the line {start} and after it the line {end}, once each")
    return f"{text.partition(start)[0]}{start}\n{block}{end}{text.partition(end)[2]}"


def _numbers(column: Sequence[str]) -> bool:
    filled = [cell for cell in column if cell not in ("", "-")]
    return bool(filled) and all(NUMBER.match(cell) for cell in filled)


def filled(markdown: str) -> str:
    """Return Markdown with its paragraphs and lists in lines of at most WIDTH; one blank line between blocks."""
    blocks = re.split(r"\n\s*\n", markdown.strip())
    return "\n\n".join(block if block.startswith(NOT_PROSE) else _fill(block) for block in blocks) + "\n"


def _fill(block: str) -> str:
    """Fill a paragraph, or each item of a list."""
    items = re.split(r"\n(?=- )", block)
    lines = []
    for item in items:
        text = LIKE_A_MARKER.sub("\x00", " ".join(item.removeprefix("- ").split()))
        first, rest = ("- ", "  ") if item.startswith("- ") else ("", "")
        lines.append(
            textwrap.fill(
                text,
                WIDTH,
                initial_indent=first,
                subsequent_indent=rest,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    return "\n".join(lines).replace("\x00", " ")


def shifted(markdown: str, by: int) -> str:
    """Return Markdown with its headings `by` levels deeper."""
    return re.sub(r"^(#+ )", "#" * by + r"\1", markdown.strip(), flags=re.MULTILINE)


def to_html(markdown: str, shift: int = 0) -> Markup:
    """Return Markdown as HTML: raw HTML escaped, headings `shift` levels deeper, tables in a box that scrolls.

    An interval, a time and a trial's name stay on one line.
    """
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(shifted(markdown, shift))
    html = UNBROKEN.sub(lambda found: found[0].replace(" ", "\u00a0"), html)
    box = '<div class="scroll" role="region" aria-label="table" tabindex="0"><table>'
    return Markup(html.replace("<table>", box).replace("</table>", "</table></div>"))
