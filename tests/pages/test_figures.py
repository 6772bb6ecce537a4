"""Figures show the numbers they are given, say where those come from, and are the same bytes every time."""

import json
import shutil
from pathlib import Path
from typing import Any

import drawn_runs
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from faces.cli import InputError
from faces.pages import figures
from stages import plot

PER_RUN = ("curves", "confusion", "operating_point")
SHARED = {"roc.png", "precision_recall.png", "calibration.png", "class_balance.png", "children_improved.png"}
POINTS = pd.DataFrame({"fpr": [0, 0.2, 1], "tpr": [0, 0.9, 1], "recall": [0, 0.5, 1], "precision": [1, 0.9, 0.5]})
BINS = pd.DataFrame({"predicted": [0.1, 0.9], "observed": [0, 1.0], "low": [0, 0.5], "high": [0.4, 1.0]})
SAMPLE = "sample: drawn faces"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    drawn_runs.make(root, source="sample", n=60)
    return root


@pytest.fixture
def runs(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw(runs: Path, out: str = "out") -> dict[str, bytes]:
    plot.main(runs / "metrics", runs / "plots", runs / out / "figures", runs / out / "compared")
    return {path.name: path.read_bytes() for path in (runs / out / "figures").glob("*.png")}


def keep(*names: str) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["runs"] = {name: params["runs"][name] for name in names}
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def tables(runs: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, pd.DataFrame]:
    monkeypatch.setattr(figures, "save", lambda *_: None)
    plot.main(runs / "metrics", runs / "plots", runs / "figures", runs / "compared")
    return {path.stem: pd.read_csv(path) for path in (runs / "compared").iterdir()}


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_stage_draws_the_compared_runs_then_also_an_active_one_that_is_none_of_them(runs: Path) -> None:
    keep("trial2", "improved")
    per_run = {f"{kind}_{name}.png" for kind in PER_RUN for name in ("trial2", "improved")}
    drawn = draw(runs)
    assert drawn.keys() == per_run | SHARED

    change(runs / "metrics/active.json", model_sha256="f" * 64)
    more = draw(runs, "again")
    assert more.keys() == per_run | SHARED | {f"{kind}_active.png" for kind in PER_RUN}
    same = per_run | {"class_balance.png", "children_improved.png"}
    assert {name: more[name] for name in same} == {name: drawn[name] for name in same}, "same bytes"
    assert all(more[name] != drawn[name] for name in SHARED - same)

    training = json.loads((runs / "metrics/active.json").read_text())["training"]
    change(runs / "metrics/active.json", training={**training, "split": "seed2"})
    apart = draw(runs, "elsewhere")  # its test images are others: it is drawn, but beside no other run
    assert apart == {**more, **{name: drawn[name] for name in SHARED}}


def test_stage_reads_the_runs_that_params_yaml_compares_and_no_other(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (runs / "metrics/runs/trial3.json").write_text("no longer a run")
    keep("trial1", "trial2", "improved", "improved-split2")  # the last is on another split, and not even there
    assert list(tables(runs, monkeypatch)["history"]["run"].unique()) == ["trial 1", "trial 2", "improved"]


def test_compared_tables_hold_the_rows_of_each_run(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tables(runs, monkeypatch)
    assert found.keys() == {"history", *plot.CURVES}
    for kind, table in found.items():
        assert list(table.columns[:2]) == ["run", "images"]
        assert list(table["run"].unique()) == ["trial 1", "trial 2", "trial 3", "improved"]
        assert set(table["images"]) == {7 * 60 if kind == "history" else 60}
        path = "history/trial3.csv" if kind == "history" else f"curves/trial3/{kind}.csv"
        rows = table[table["run"] == "trial 3"].drop(columns=["run", "images"])
        pd.testing.assert_frame_equal(rows.reset_index(drop=True), pd.read_csv(runs / "plots" / path))


@pytest.mark.parametrize("missing", ["metrics/runs/trial2.json", "plots/history/trial2.csv"])
def test_stage_names_the_missing_file(runs: Path, missing: str) -> None:
    (runs / missing).unlink()
    with pytest.raises((InputError, FileNotFoundError), match=f"trial2{Path(missing).suffix}"):
        draw(runs)


def test_titles_say_what_of_how_many_and_whether_it_is_the_sample(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[str]] = {}

    def look(figure: Figure, path: Path) -> None:
        titles = [axes.get_title(loc="left") for axes in figure.axes]
        seen[path.stem] = [title for title in [figure.get_suptitle(), *titles] if title]

    monkeypatch.setattr(figures, "save", look)
    plot.main(runs / "metrics", runs / "plots", runs / "figures", runs / "compared")
    assert all(len(titles) == 1 and titles[0].endswith(f"\n{SAMPLE}") for titles in seen.values())
    assert seen["class_balance"][0].startswith("Images per class, n = 600\n")
    assert seen["curves_trial1"][0].startswith("Training, trial 1, n = 420\n")
    assert seen["roc"][0].startswith("ROC, test, n = 60\n")


def names(many: int) -> dict[str, str]:
    return {f"run{i}": f"{figures.run_name(f'run{i}')}: 0.123 (0.100 to 0.200)" for i in range(1, many + 1)}


def of_each(table: pd.DataFrame, many: int) -> dict[str, pd.DataFrame]:
    return dict.fromkeys(names(many), table)


def history(epochs: int) -> pd.DataFrame:
    columns = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    return pd.DataFrame({"epoch": range(1, epochs + 1), **{name: np.linspace(1, 0, epochs) for name in columns}})


TITLE = figures.title("Average precision, test", "improved", 299, "sample")


@pytest.mark.parametrize("many", [1, 4, 9])
@pytest.mark.parametrize("kind", ["roc", "precision_recall", "calibration", "curves", "operating_point"])
def test_legends_cover_nothing_and_nothing_is_cut_off(kind: str, many: int) -> None:
    table = BINS if kind == "calibration" else POINTS
    if kind == "curves":
        figure = figures.curves(history(many), TITLE, best_epoch=1, stopped_epoch=many)
    elif kind == "operating_point":
        points = pd.DataFrame({"threshold": [0, 1], "recall": [1, 0], "specificity": [0, 1]})
        figure = figures.operating_point(points, 0.5, TITLE)
    elif kind == "precision_recall":
        figure = figures.precision_recall(of_each(table, many), names(many), 0.5, TITLE)
    else:
        figure = getattr(figures, kind)(of_each(table, many), names(many), TITLE)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    legends = [legend.get_window_extent() for legend in figure.legends]
    assert len(legends) == 1
    assert not any(axes.get_legend() for axes in figure.axes)
    drawn = [axes.get_tightbbox() for axes in figure.axes]  # with its labels, ticks and title
    assert not any(legends[0].overlaps(box) for box in drawn)
    for box in [*legends, *drawn]:
        assert box.x0 >= 0 <= box.y0
        assert box.x1 <= figure.bbox.width
        assert box.y1 <= figure.bbox.height
    if kind in ("roc", "precision_recall", "calibration"):
        axes = figure.axes[0].get_window_extent()
        assert 0.85 < axes.width / axes.height < 1.2


def test_files_carry_no_metadata(tmp_path: Path) -> None:
    figures.save(figures.confusion([[1, 0], [0, 1]], ["healthy", "down_syndrome"], "x"), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert set(picture.info) <= {"dpi", "transparency"}
        assert picture.width == figures.WIDTH * figures.DPI


@pytest.mark.parametrize(
    ("run", "source", "expected"),
    [
        ("trial2", "kaggle", "ROC, trial 2, n = 299"),
        ("improved-split2", "kaggle", "ROC, improved-split2, n = 299"),
        ("active", "own", "ROC, active run, n = 299\nown images, not the paper's"),
        ("", "sample", "ROC, n = 299\nsample: drawn faces"),
    ],
)
def test_title_names_run_n_and_sample(run: str, source: str, expected: str) -> None:
    assert figures.title("ROC", run, 299, source) == expected


def test_confusion_writes_counts_and_shares() -> None:
    axes = figures.confusion([[134, 16], [15, 132]], ["healthy", "down_syndrome"], "t").axes[0]
    assert [text.get_text() for text in axes.texts] == ["134\n89.3%", "16\n10.7%", "15\n10.2%", "132\n89.8%"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["healthy", "Down syndrome"]


def test_confusion_of_a_class_without_images_has_no_nan() -> None:
    axes = figures.confusion([[3, 1], [0, 0]], ["healthy", "down_syndrome"], "t").axes[0]
    assert axes.texts[2].get_text() == "0\n0.0%"


def test_class_balance_writes_the_counts() -> None:
    axes = figures.class_balance({"healthy": 1499, "down_syndrome": 1500}, "t").axes[0]
    assert [text.get_text() for text in axes.texts] == ["1499", "1500"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["healthy", "Down syndrome"]


def test_curves_show_the_history_and_the_kept_epoch() -> None:
    table = history(3)
    figure = figures.curves(table, "t", best_epoch=2, stopped_epoch=3)
    for axes, what in zip(figure.axes, ("accuracy", "loss"), strict=True):
        for line, key in zip(axes.lines, ("train", "val"), strict=False):
            assert line.get_ydata().tolist() == table[f"{key}_{what}"].tolist()
        assert axes.lines[2].get_xdata() == [2, 2]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["training", "validation", "kept: epoch 2", "stopped: epoch 3"]


def test_runs_differ_in_colour_or_in_line_style_and_the_first_in_both() -> None:
    styles = [(figures.line(i)["color"], figures.line(i)["ls"]) for i in range(36)]
    assert len(set(styles)) == 36
    colours, lines = zip(*styles[:6], strict=True)
    assert len(set(colours)) == len(set(lines)) == len({figures.line(i)["marker"] for i in range(6)}) == 6


def test_curve_figures_show_their_points() -> None:
    drawn = figures.roc({"a": POINTS, "b": POINTS}, {"a": "A", "b": "B"}, "t").axes[0].lines[1]
    assert drawn.get_xydata().tolist() == POINTS[["fpr", "tpr"]].to_numpy().tolist()
    drawn = figures.precision_recall({"a": POINTS}, {"a": "A"}, 0.5, "t").axes[0].lines[1]
    assert drawn.get_xydata().tolist() == POINTS[["recall", "precision"]].to_numpy().tolist()


def test_heat_map_is_scaled_so_that_evenly_spread_is_one() -> None:
    axes = figures.heat_map(np.full((4, 4), 1 / 16), np.eye(4, dtype=bool), "t", 1 / 16).axes[0]
    assert np.allclose(axes.images[0].get_array(), 1)
