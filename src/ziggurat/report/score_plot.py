"""Precision, recall and F1 over the least score, with the best score named; found objects over annotated ones."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ziggurat.metrics.counts import Counts
from ziggurat.metrics.scores import ScoreCurve
from ziggurat.report.plots import COLORS, FAINT, new_figure, render
from ziggurat.report.table import best_score


def draw_scores(curve: ScoreCurve) -> Image.Image:
    """Draw what comes of each least score."""
    figure = new_figure(8, 5.2)
    axes = figure.add_subplot()
    best = curve.numbers()
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1.02),
        xlabel="least score of what counts",
        title="What comes of each least score",
    )
    axes.grid(color="#e4e4e4", linewidth=0.8)
    lines = (("precision", curve.precision, 1.6), ("recall", curve.recall, 1.6), ("F1", curve.f1, 2.6))
    for (name, values, width), color in zip(lines, (COLORS[0], COLORS[1], "black"), strict=True):
        axes.plot(curve.scores, values, color=color, linewidth=width, label=name)
    if best is not None:
        axes.axvline(best["score"], color=FAINT, linestyle="--", linewidth=1.2)
        axes.plot([best["score"]], [best["f1"]], "o", color="black")
    figure.legend(title=best_score(curve), loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return render(figure)


def draw_counts(counts: Counts, unit: str) -> Image.Image:
    """Draw for each image how many objects were found over how many are annotated; on the line both are equal."""
    annotated, found = counts.annotated.sum(axis=1), counts.found.sum(axis=1)
    figure = new_figure(6, 6)
    axes = figure.add_subplot()
    end = 1.05 * max(1, *annotated.tolist(), *found.tolist())
    axes.plot([0, end], [0, end], color=FAINT, linewidth=1)
    places, sizes = np.unique(np.stack([annotated, found], axis=1), axis=0, return_counts=True)
    area = 18 + 60 * (sizes - 1) / max(1, int(sizes.max()) - 1)
    axes.scatter(places[:, 0], places[:, 1], s=area, color=COLORS[0], alpha=0.7, linewidths=0)
    axes.set(xlim=(0, end), ylim=(0, end), xlabel=f"{unit} annotated", ylabel=f"{unit} found")
    axes.set_title(f"Images by their {unit} (score {counts.least_score:.3f} or more)")
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_aspect("equal")
    return render(figure)
