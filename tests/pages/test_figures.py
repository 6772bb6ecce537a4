"""Figures show the numbers they are given, say where those come from, and are the same bytes every time."""

import json
from pathlib import Path

import drawn_runs
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from faces.cli import InputError
from faces.pages import plots
from stages import plot

PER_RUN = ("curves", "confusion", "operating_point")
SHARED = {"roc.png", "precision_recall.png", "calibration.png"}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    drawn_runs.make(tmp_path, source="sample", n=60)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw(runs: Path, out: str = "figures") -> dict[str, bytes]:
    plot.main(runs / "metrics", runs / "models", runs / "plots", runs / out)
    return {path.name: path.read_bytes() for path in (runs / out).iterdir()}


def test_stage_draws_the_trials_then_also_an_active_run_that_is_none_of_them(runs: Path) -> None:
    per_trial = {f"{kind}_{trial}.png" for kind in PER_RUN for trial in drawn_runs.TRIALS}
    figures = draw(runs)
    assert figures.keys() == per_trial | SHARED

    path = runs / "metrics" / "active.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_sha256": "f" * 64}))
    more = draw(runs, "again")
    assert more.keys() == per_trial | SHARED | {f"{kind}_active.png" for kind in PER_RUN}
    assert {name: more[name] for name in per_trial} == {name: figures[name] for name in per_trial}, "same bytes"
    assert all(more[name] != figures[name] for name in SHARED)


def test_stage_names_the_missing_file(runs: Path) -> None:
    (runs / "metrics" / "trials" / "trial2.json").unlink()
    with pytest.raises(InputError, match=r"trial2\.json not found"):
        draw(runs)


def test_files_carry_no_metadata(tmp_path: Path) -> None:
    plots.save(plots.confusion([[1, 0], [0, 1]], ["healthy", "down_syndrome"], "x"), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert set(picture.info) <= {"dpi", "transparency"}
        assert picture.width == plots.WIDTH * plots.DPI


@pytest.mark.parametrize(
    ("run", "source", "expected"),
    [
        ("trials.trial2", "kaggle", "ROC, trial 2, n = 299"),
        ("trials.big", "kaggle", "ROC, big, n = 299"),
        ("train", "own", "ROC, active run, n = 299"),
        ("", "sample", "ROC, n = 299\nSAMPLE: drawn faces, not the paper's data"),
    ],
)
def test_title_names_run_n_and_sample(run: str, source: str, expected: str) -> None:
    assert plots.title("ROC", run, 299, source) == expected


def test_confusion_writes_counts_and_shares() -> None:
    axes = plots.confusion([[134, 16], [15, 132]], ["healthy", "down_syndrome"], "t").axes[0]
    assert [text.get_text() for text in axes.texts] == ["134\n89.3%", "16\n10.7%", "15\n10.2%", "132\n89.8%"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["healthy", "Down syndrome"]


def test_confusion_of_a_class_without_images_has_no_nan() -> None:
    axes = plots.confusion([[3, 1], [0, 0]], ["healthy", "down_syndrome"], "t").axes[0]
    assert axes.texts[2].get_text() == "0\n0.0%"


def test_curves_show_the_history_and_the_kept_epoch() -> None:
    columns = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    history = pd.DataFrame({"epoch": [1, 2, 3], **{name: np.arange(3.0) + i for i, name in enumerate(columns)}})
    upper, lower = plots.curves(history, "t", best_epoch=2, stopped_epoch=3).axes
    for axes, names in (
        (upper, ("train_accuracy", "val_accuracy")),
        (lower, ("train_loss", "val_loss")),
    ):
        for line, name in zip(axes.lines, names, strict=False):
            assert line.get_ydata().tolist() == history[name].tolist()
        assert axes.lines[2].get_xdata() == [2, 2]
    words = [text.get_text() for text in lower.get_legend().get_texts()]
    assert words == ["training", "validation", "kept: epoch 2", "stopped: epoch 3"]


def test_runs_differ_in_colour_and_in_line_style() -> None:
    colours, styles = zip(*plots.LINES, strict=True)
    assert len(set(colours)) == len(set(styles)) == len(set(plots.MARKERS)) == len(plots.LINES)


def test_curve_figures_show_their_points() -> None:
    points = pd.DataFrame({"fpr": [0, 0.2, 1], "tpr": [0, 0.9, 1], "recall": [0, 0.5, 1], "precision": [1, 0.9, 0.5]})
    drawn = plots.roc({"a": points, "b": points}, {"a": "A", "b": "B"}, "t").axes[0].lines[1]
    assert drawn.get_xydata().tolist() == points[["fpr", "tpr"]].to_numpy().tolist()
    drawn = plots.precision_recall({"a": points}, {"a": "A"}, 0.5, "t").axes[0].lines[1]
    assert drawn.get_xydata().tolist() == points[["recall", "precision"]].to_numpy().tolist()


def test_heat_map_is_scaled_so_that_evenly_spread_is_one() -> None:
    axes = plots.heat_map(np.full((4, 4), 1 / 16), np.eye(4, dtype=bool), "t", 1 / 16).axes[0]
    assert np.allclose(axes.images[0].get_array(), 1)


def test_dvc_plots_names_files_and_columns_that_are_written(runs: Path) -> None:
    declared = yaml.safe_load((drawn_runs.REPOSITORY / "dvc.yaml").read_text())["plots"]
    drawn = [plot for item in declared if isinstance(item, dict) for plot in item.values()]
    for plot_of in drawn:
        for file, columns in plot_of["y"].items():
            wanted = {plot_of["x"], *([columns] if isinstance(columns, str) else columns)}
            assert wanted <= set(pd.read_csv(runs / file).columns), file
    files = {file for plot_of in drawn for file in plot_of["y"]}
    for name in [*drawn_runs.TRIALS, "active"]:
        assert {f"models/{name}/history.csv", f"plots/{name}/confusion.csv", f"plots/{name}/roc.csv"} <= files
