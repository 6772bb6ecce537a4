"""The figures, and the one place for their style.

Okabe-Ito colours with a line style and a marker each, so that they can be told apart by colour-blind readers and
in grey print; 4.8 inches wide at 10 points, so that they can be read at 600 pixels. Every legend stands below its
axes, where it covers nothing. Files carry no date and no software version: same numbers, same bytes.
Source of the colours: Okabe & Ito, "Color Universal Design", 2008.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from faces.pages.markdown import mark

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
STYLES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 2)))
MARKERS = "osD^vP"
REFERENCE: dict[str, Any] = {"color": "#888888", "lw": 1}  # what curves are held against: chance, perfect calibration
WIDTH = 4.8  # inches
LEGEND_ROW = 0.2  # inches
DPI = 150
NAMES = {"healthy": "healthy", "down_syndrome": "Down syndrome"}

mpl.rcParams.update(
    {
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "figure.titlesize": 10,
        "figure.dpi": DPI,
        "font.family": "DejaVu Sans",  # comes with matplotlib
        "font.size": 10,
        "grid.color": "#dddddd",
        "legend.borderpad": 0.1,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
    }
)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG: 256 colours (a third of the bytes), no metadata that differs by day or machine."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")  # type: ignore[no-untyped-call]
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(256, dither=Image.Dither.NONE).save(path, format="PNG", optimize=True, dpi=(DPI, DPI))


def title(what: str, run: str, n: int | None, source: str) -> str:
    """Return a figure's title: what it shows, of which run, of how many images, and a mark if not of the paper's."""
    parts = [what, run_name(run)] if run else [what]
    if n is not None:
        parts.append(f"n = {n}")
    return ", ".join(parts) + (f"\n{mark(source)}" if mark(source) else "")


def run_name(run: str) -> str:
    """Return a run's name for people: `trial2` is "trial 2", `active` is "active run"; other names stay."""
    return "active run" if run == "active" else re.sub(r"^([a-z]+)(\d+)$", r"\1 \2", run)


def line(i: int) -> dict[str, Any]:
    """Return the colour, line style and marker of the i-th run; the first 36 runs all differ."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "ls": STYLES[(i + i // len(COLOURS)) % len(STYLES)],
        "marker": MARKERS[i % len(MARKERS)],
    }


def _curve(i: int) -> dict[str, Any]:
    return {**line(i), "marker": ""}


def _square(heading: str, rows: int) -> tuple[Figure, Axes]:
    """Return a figure whose axes, both from 0 to 1, are about square above a legend of this many rows."""
    figure = Figure(figsize=(WIDTH, WIDTH + LEGEND_ROW * (rows + 1)), layout="constrained")
    axes = figure.add_subplot(title=heading)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return figure, axes


def _legend_below(axes: Axes, heading: str | None = None, columns: int = 1) -> None:
    figure = axes.figure
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", title=heading, ncols=columns)


def class_balance(counts: Mapping[str, int], heading: str) -> Figure:
    """Draw the number of images of each class."""
    figure = Figure(figsize=(WIDTH, 3), layout="constrained")
    axes = figure.add_subplot(title=heading)
    bars = axes.bar([NAMES[label] for label in counts], list(counts.values()), color=[BLUE, VERMILLION], width=0.6)
    axes.bar_label(bars)
    axes.set_ylabel("images")
    axes.margins(y=0.12)
    axes.grid(visible=False, axis="x")
    return figure


def curves(history: pd.DataFrame, heading: str, best_epoch: int, stopped_epoch: int) -> Figure:
    """Draw accuracy and loss per epoch, with the epoch whose weights were kept (the paper's Figures 5 to 7)."""
    figure = Figure(figsize=(WIDTH, 5.8), layout="constrained")
    figure.suptitle(heading, x=0.02, ha="left")
    upper, lower = figure.subplots(2, 1, sharex=True)
    marker = "o" if len(history) < 4 else ""
    for axes, what in ((upper, "accuracy"), (lower, "loss")):
        for i, (name, key) in enumerate((("training", "train"), ("validation", "val"))):
            style = {**line(i), "marker": marker}
            axes.plot(history["epoch"], history[f"{key}_{what}"], **style, label=name)
        axes.axvline(best_epoch, color="black", lw=1, ls=":", label=f"kept: epoch {best_epoch}")
        axes.set_ylabel(what)
    lower.plot([], [], " ", label=f"stopped: epoch {stopped_epoch}")
    lower.set_xlabel("epoch")
    lower.xaxis.get_major_locator().set_params(integer=True)
    _legend_below(lower, columns=2)
    return figure


def confusion(matrix: Sequence[Sequence[int]], labels: Sequence[str], heading: str) -> Figure:
    """Draw counts and shares of each true class (the paper's Figures 8 to 10); matrix [true][predicted]."""
    counts = np.asarray(matrix)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.add_subplot(title=heading)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        dark = shares[row, column] > 0.5
        text = f"{count}\n{shares[row, column]:.1%}"
        axes.text(column, row, text, ha="center", va="center", fontsize=15, color="white" if dark else "black")
    names = [NAMES.get(label, label) for label in labels]
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names, rotation=90, va="center")
    axes.set(xlabel="predicted", ylabel="true")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    return figure


def roc(curves: Mapping[str, pd.DataFrame], legend: Mapping[str, str], heading: str) -> Figure:
    """Draw one ROC curve per run; columns fpr and tpr; `legend` says each run's AUROC and interval."""
    figure, axes = _square(heading, rows=1 + len(curves))
    axes.plot([0, 1], [0, 1], **REFERENCE, label="chance")
    for i, (run, points) in enumerate(curves.items()):
        axes.plot(points["fpr"], points["tpr"], **_curve(i), label=legend[run])
    axes.set(xlabel="false positive rate (1 - specificity)", ylabel="true positive rate (recall)")
    _legend_below(axes, "AUROC (interval)")
    return figure


def precision_recall(
    curves: Mapping[str, pd.DataFrame], legend: Mapping[str, str], base_rate: float, heading: str
) -> Figure:
    """Draw one precision-recall curve per run; columns recall and precision; the base rate is chance."""
    figure, axes = _square(heading, rows=1 + len(curves))
    axes.axhline(base_rate, **REFERENCE, label=f"chance: {base_rate:.2f}")
    for i, (run, points) in enumerate(curves.items()):
        axes.plot(points["recall"], points["precision"], **_curve(i), label=legend[run])
    axes.set(xlabel="recall", ylabel="precision")
    _legend_below(axes, "average precision (interval)")
    return figure


def calibration(bins: Mapping[str, pd.DataFrame], legend: Mapping[str, str], heading: str) -> Figure:
    """Draw observed share against predicted probability; columns predicted, observed, low, high."""
    figure, axes = _square(heading, rows=1 + len(bins))
    axes.plot([0, 1], [0, 1], **REFERENCE, label="perfect")
    for i, (run, points) in enumerate(bins.items()):
        axes.vlines(points["predicted"], points["low"], points["high"], color=line(i)["color"], lw=1)
        axes.plot(points["predicted"], points["observed"], **line(i), label=legend[run])
    axes.set(xlabel="predicted probability of Down syndrome", ylabel="observed share with Down syndrome")
    _legend_below(axes, "expected calibration error (interval)")
    return figure


def operating_point(points: pd.DataFrame, threshold: float, heading: str) -> Figure:
    """Draw recall and specificity against the threshold; columns threshold, recall, specificity."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.add_subplot(title=heading)
    for i, name in enumerate(("recall", "specificity")):
        axes.plot(points["threshold"], points[name], **_curve(i), label=name)
    axes.axvline(0.5, **REFERENCE, label="the paper's threshold: 0.5")
    axes.axvline(threshold, color="black", lw=1, ls=":", label=f"chosen on validation: {threshold:.3f}")
    axes.set(xlabel="threshold on the probability of Down syndrome", ylabel="share", xlim=(-0.02, 1.02))
    axes.set_ylim(-0.02, 1.02)
    _legend_below(axes, columns=2)
    return figure


def heat_map(
    heat: npt.NDArray[np.floating[Any]], middle: npt.NDArray[np.bool_], heading: str, largest: float
) -> Figure:
    """Draw an average Grad-CAM map [S, S] alone, with the middle that the occlusion check hides outlined.

    heat sums to 1; `largest` (share of the heat in one pixel) is the top of the scale, the same for maps to compare.
    """
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes = figure.add_subplot(title=heading)
    drawn = axes.imshow(heat * heat.size, cmap="viridis", vmin=0, vmax=largest * heat.size)
    axes.contour(middle, levels=[0.5], colors="white", linestyles="--", linewidths=1.2)
    figure.colorbar(drawn, ax=axes, label="heat (1 = spread evenly)", shrink=0.85)
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    return figure


def intervals(rows: Mapping[str, Mapping[str, Any]], xlabel: str, heading: str) -> Figure:
    """Draw one value with its interval per row; each row has value, low and high."""
    figure = Figure(figsize=(WIDTH, 1.2 + 0.5 * len(rows)), layout="constrained")
    axes = figure.add_subplot(title=heading)
    for y, row in enumerate(rows.values()):
        error = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
        axes.errorbar(row["value"], y, xerr=error, fmt="o", color=BLUE, capsize=4)
        axes.annotate(f"{row['value']:.1%}", (row["value"], y), (0, 7), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.7))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure
