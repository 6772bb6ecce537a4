"""The figure of recall by the similarity of the nearest training face."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from faces.evidence.children import Recipe
from faces.pages.figures import NAMES, WIDTH, line
from faces.pages.tables import KINDS, RIGHT

LOWEST = 0.2  # similarity that is drawn; a nearest face is hardly ever less alike


def recall_by_similarity(recipe: Recipe, label: str, step: float, heading: str) -> Figure:
    """Draw the share of a class that is found, by the similarity of the nearest training face, and the similarities."""
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    figure.suptitle(heading, x=0.02, ha="left")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for i, (kind, found) in enumerate(recipe.kinds.items()):
        style = line(i)
        for band in found.by_similarity[label]:
            if band.low is None or band.high is None or not band.times:
                continue
            right, middle = (
                band.right,
                (max(band.low, LOWEST) + band.high) / 2 + 0.012 * (i - (len(recipe.kinds) - 1) / 2),
            )
            error = [[right.value - right.low], [right.high - right.value]]
            upper.hlines(right.value, band.low, band.high, color=style["color"], ls=style["ls"], lw=1)
            upper.errorbar(middle, right.value, yerr=error, color=style["color"], marker=style["marker"], capsize=3)
        counts = np.asarray(found.distribution[label], float)
        share = counts / max(counts.sum(), 1)
        places = np.linspace(0, 1, len(counts) + 1)
        lower.stairs(share, places, color=style["color"], ls=style["ls"], lw=1.8)
        upper.plot([], [], **style, label=f"{KINDS.get(kind, kind)}, {int(counts.sum())} scores")
    upper.set_ylabel(RIGHT[label])
    lower.set(
        xlabel=f"similarity to the nearest {NAMES[label]} training face", ylabel=f"share in {step:g}", xlim=(LOWEST, 1)
    )
    for axes in (upper, lower):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    handles, labels = upper.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center")
    return figure
