"""The pages in a real browser, without a network; skipped where no Chromium is installed."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import plotted
import pytest
import yaml

from faces.naming import LABELS
from faces.pages import figures
from stages import report

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--no-sandbox",  # it may run as root, in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
WIDTHS = (360, 1280)  # of a telephone and of a laptop, in pixels
DOT = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="  # a picture of one pixel
PICTURES = """() => [...document.querySelectorAll("img, svg.marks")].map((picture) => ({
  text: picture.getAttribute("alt") ?? picture.closest("[aria-label]")?.getAttribute("aria-label"),
  drawn: picture.complete ? picture.naturalWidth > 0 : picture.querySelector("[class*=mark-] path[d]") !== null,
}))"""


@dataclass
class Opened:
    """A page in the browser, and what happened while it was opened."""

    page: Any
    errors: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)  # addresses that are not files

    def check(self, pictures: int) -> None:
        """Assert that the page is whole: each of so many pictures drawn and described, nothing fetched or too wide."""
        self.page.wait_for_function(f"document.querySelectorAll('img, svg.marks').length >= {pictures}")
        found = self.page.evaluate(PICTURES)
        assert all(picture["drawn"] for picture in found)
        assert len({picture["text"] for picture in found if picture["text"]}) == len(found) == pictures
        assert self.errors == []
        assert self.fetched == []
        for width in WIDTHS:
            self.page.set_viewport_size({"width": width, "height": 800})
            assert self.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium is installed (looked for {', '.join(NAMES)})")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        yield started
        started.close()


def visit(browser: Any, path: Path) -> Opened:
    opened = Opened(browser.new_page())
    opened.page.on("console", lambda said: opened.errors.append(said.text) if said.type == "error" else None)
    opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.page.on("request", lambda request: opened.fetched.append(request.url))
    opened.page.goto(path.as_uri())
    opened.page.wait_for_load_state("networkidle")
    opened.fetched = [url for url in opened.fetched if not url.startswith(("file:", "data:", "blob:"))]
    return opened


def page_of(clone: Path, *command: str) -> Path:
    """Return the page whose address a command of DVC prints last."""
    address = plotted.execute(clone, "dvc", "plots", *command).split()[-1]
    assert address.startswith(clone.as_uri())
    return Path(address.removeprefix("file://"))


@pytest.fixture(scope="module")
def shown(clone: Path) -> Path:
    """Return the page of a fresh clone's plots."""
    return page_of(clone, "show", "--out", "shown")


def test_the_report_is_whole(browser: Any, origin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(origin)
    even = np.full((8, 8), 1 / 64)
    for label in LABELS:
        heat = figures.heat_map(even, even > 0, figures.title(label, "active", 30, "sample"), 1 / 64)
        figures.save(heat, origin / f"plots/explain/{label}.png")
    rows = {"whole picture": {"value": 0.9, "low": 0.8, "high": 0.95}}
    figures.save(figures.intervals(rows, "accuracy", "Occlusion"), origin / "plots/explain/occlusion.png")
    report.main(
        origin / "metrics",
        origin / "models/runs",
        origin / "plots",
        reports=origin / "reports",
        card=origin / "MODEL_CARD.md",
    )
    pictures = len(list((origin / "plots").rglob("*.png")))
    visit(browser, origin / "reports/index.html").check(pictures)


def test_all_plots_are_drawn_offline(browser: Any, clone: Path, shown: Path) -> None:
    declared = yaml.safe_load((clone / "dvc.yaml").read_text())["plots"]
    visit(browser, shown).check(pictures=len(declared))


def test_plots_of_two_revisions_are_drawn_offline(browser: Any, clone: Path) -> None:
    names = ("accuracy", "confusion", "roc", "active_loss")
    visit(browser, page_of(clone, "diff", "HEAD", "--targets", *names)).check(pictures=len(names))


def test_a_plot_without_data_says_so(browser: Any, clone: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(clone, tmp_path / "own"))
    (own / "plots/active/history.csv").unlink()  # two of the plots
    declared = yaml.safe_load((own / "dvc.yaml").read_text())["plots"]
    opened = visit(browser, page_of(own, "show"))
    opened.check(pictures=len(declared) - 2)
    assert opened.page.get_by_text("No data for active").count() == 2


def test_without_an_install_the_page_asks_for_what_dvc_names(browser: Any, shown: Path, tmp_path: Path) -> None:
    """This shows, too, that these tests see a request."""
    moved = shutil.copytree(shown.parent, tmp_path / "a" / "b")
    opened = visit(browser, moved / "index.html")
    assert {url.rpartition("@")[0] for url in opened.fetched} == {
        f"https://cdn.jsdelivr.net/npm/{name}" for name in ("vega", "vega-lite", "vega-embed")
    }
    assert opened.errors


def test_a_demo_inside_the_repository_finds_what_that_installed(
    browser: Any, clone: Path, shown: Path, tmp_path: Path
) -> None:
    shutil.copytree(clone / ".venv", tmp_path / ".venv")
    inside = shutil.copytree(shown.parent, tmp_path / ".demo" / "dvc_plots")
    assert visit(browser, inside / "index.html").fetched == []


@pytest.mark.parametrize(
    "fault",
    [
        "<script>nothing()</script>",
        "<script>console.error('no')</script>",
        "<link rel=stylesheet href=https://example.org/style.css>",
        "<p style='width: 400px'>wide</p>",
        "<img src=absent.png alt=Absent>",
        f"<img src='{DOT}'>",
        f"<img src='{DOT}' alt=Dot>",
        "<svg class=marks aria-label=Empty></svg>",
        "",
    ],
)
def test_the_check_finds_what_is_wrong(browser: Any, tmp_path: Path, fault: str) -> None:
    page = tmp_path / "page.html"
    sound = f"<!doctype html><meta name=viewport content='width=device-width'><img src='{DOT}' alt=Dot>"
    page.write_text(sound + fault, encoding="utf-8")
    pictures = 2 if "<img" in fault or "<svg" in fault else 1
    opened = visit(browser, page)
    if fault:
        with pytest.raises(AssertionError):
            opened.check(pictures)
    else:
        opened.check(pictures)
