"""`dvc plots` shows every run that params.yaml compares, in a fresh clone, and tells revisions apart."""

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import drawn_runs
import pandas as pd
import plotted
import pytest
import vl_convert
import yaml

RUNS = ["trial 1", "trial 2", "trial 3", "improved"]


Found = dict[str, list[dict[str, Any]]]  # by a plot's name: what DVC shows of it


def found(folder: Path, *command: str) -> Found:
    """Return what DVC shows."""
    output = json.loads(plotted.execute(folder, "dvc", "plots", *command, "--json"))
    assert "errors" not in output
    plots: Found = output["data"]
    return plots


def drawn(plots: Found) -> dict[str, str]:
    """Return each plot as SVG, by name; pictures left out."""
    svg = {}
    for name, (plot, *others) in plots.items():
        if plot["type"] == "vega":
            assert not others
            assert "<DVC_METRIC" not in json.dumps(plot["content"])
            svg[name] = vl_convert.vegalite_to_svg(plot["content"])
    return svg


def words(svg: str) -> list[str]:
    """Return the texts in an SVG in their order: titles, labels, legends, numbers."""
    return [text for text in ElementTree.fromstring(svg).itertext() if text.strip()]


@pytest.fixture(scope="module")
def of_clone(clone: Path) -> Found:
    """Return what DVC shows in a fresh clone."""
    return found(clone, "show")


@pytest.fixture
def own(clone: Path, tmp_path: Path) -> Path:
    """Return a copy of the clone that a test may change."""
    return Path(shutil.copytree(clone, tmp_path / "own", symlinks=True))


def test_a_fresh_clone_shows_every_plot_of_every_compared_run(clone: Path, of_clone: Found) -> None:
    assert not (clone / ".dvc/cache").exists()
    declared = yaml.safe_load((clone / "dvc.yaml").read_text())["plots"]
    ids = [item if isinstance(item, str) else next(iter(item)) for item in declared]
    assert list(of_clone) == ids
    (picture,) = of_clone["plots/figures/class_balance.png"]
    assert Path(picture["url"]).is_file()
    plots = drawn(of_clone)
    assert len(plots) == len(ids) - 1
    for name, svg in plots.items():
        n = 7 * 60 if name.endswith(("accuracy", "loss")) else 60
        expected = ["active run"] if name.startswith("active_") else [f"{run} (n = {n})" for run in RUNS]
        assert [text for text in words(svg) if text in expected] == expected, name
        assert ", sample" in words(svg)[-1], "the title"
    assert "Accuracy per epoch, sample (trials 1 to 3 are Figures 5 to 7)" in words(plots["accuracy"])
    assert "Confusion, test, sample (trials 1 to 3 are Figures 8 to 10)" in words(plots["confusion"])


def test_confusion_matrices_count_the_images(clone: Path, of_clone: Found) -> None:
    svg = drawn({"confusion": of_clone["confusion"]})["confusion"]
    counts = []
    for name in drawn_runs.TRIALS:
        document = json.loads((clone / f"metrics/runs/{name}.json").read_text())
        counts += [str(count) for row in document["confusion_matrix"]["matrix"] for count in row]
    assert sorted(text for text in words(svg) if text.isdigit()) == sorted(counts)


def test_a_cell_without_images_says_zero(own: Path) -> None:
    path = own / "plots/compared/confusion.csv"
    table = pd.read_csv(path)
    table.loc[table["actual"] == "healthy", "predicted"] = "healthy"
    table.to_csv(path, index=False)
    svg = drawn(found(own, "show", "confusion"))["confusion"]
    assert [words(svg).count(text) for text in ("0", "0.0%", "30", "100.0%")] == [4, 4, 4, 4]


def test_a_new_run_appears_by_its_entry_alone(own: Path) -> None:
    params = yaml.safe_load((own / "params.yaml").read_text())
    params["runs"]["trial4"] = {"recipe": "trial3", "split": "seed1", "seed": 1}
    (own / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    for name in ("metrics/runs/{}.json", "plots/history/{}.csv"):
        shutil.copyfile(own / name.format("trial3"), own / name.format("trial4"))
    shutil.copytree(own / "plots/curves/trial3", own / "plots/curves/trial4")
    plotted.draw(own)
    assert (own / "plots/figures/curves_trial4.png").is_file()
    compared = [svg for name, svg in drawn(found(own, "show")).items() if not name.startswith("active_")]
    assert len(compared) == 7
    assert all(any(text.startswith("trial 4 (n = ") for text in words(svg)) for svg in compared)


def test_revisions_are_told_apart(own: Path) -> None:
    path = own / "plots/active/history.csv"
    history = pd.read_csv(path)
    history.head(1).to_csv(path, index=False)  # as while it trains
    for name, svg in drawn(found(own, "diff", "HEAD")).items():
        assert all(any(revision in text for text in words(svg)) for revision in ("workspace", "HEAD")), name


@pytest.mark.parametrize("version", ["5.8", "5.21", "6.4"])
def test_templates_suit_the_versions_of_vega_lite_that_are_about(of_clone: Found, version: str) -> None:
    """DVC's own page and the editor extension have a 5, the page of this repository the newest."""
    for plot, *_ in of_clone.values():
        if plot["type"] == "vega":
            assert "</svg>" in vl_convert.vegalite_to_svg(plot["content"], vl_version=version)
