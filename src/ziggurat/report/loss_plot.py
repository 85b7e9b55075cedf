"""Loss, learning rate and validation metrics over the steps of a run, as one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ziggurat.report.history import History, smooth
from ziggurat.report.plots import COLORS, new_figure, render, say_nothing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_POINTS = 4000  # of a curve: more than the picture has columns
_MAX_METRICS = 6
_LOG_RATIO = 20  # a loss that falls more than so many times is drawn on a logarithmic axis


def draw_history(history: History) -> Image.Image:
    """Draw the loss and its terms, the learning rate and, if there were several evaluations, the metrics."""
    evaluated = len(history.val.get("step", [])) > 1
    heights = [3, 1, 2] if evaluated else [3, 1]
    figure = new_figure(8.5, 1.45 * sum(heights))
    loss, rate, *metrics = figure.subplots(
        len(heights), 1, sharex=True, height_ratios=heights, squeeze=False
    )[:, 0]
    _draw_loss(loss, history.train)
    _draw_curve(rate, history.train, "lr", COLORS[0], 1.6)
    rate.set(ylabel="learning rate", title="Learning rate")
    rate.set_ylim(bottom=0)
    if metrics:
        _draw_metrics(metrics[0], history.val)
    for axes in (loss, rate, *metrics):
        axes.grid(color="#e4e4e4", linewidth=0.8)
    (rate, *metrics)[-1].set_xlabel("step")
    return render(figure)


def _draw_loss(axes: Axes, train: dict[str, np.ndarray]) -> None:
    """Draw each term faint as it is, and its smooth curve upon it."""
    axes.set(ylabel="loss", title="Training loss (faint: each step, strong: its moving mean)")
    terms = [name for name in train if name.startswith("loss_")]
    names = terms if len(terms) == 1 else ["loss", *terms]
    if not len(train.get("loss", [])):
        say_nothing(axes, "no step was taken")
        return
    colors = ("black", *COLORS)[: len(names)] if len(names) > 1 else COLORS[:1]
    lowest, highest = np.inf, 0.0
    for name, color in zip(names, colors, strict=False):
        steps, values = _points(train, name)
        smoothed = smooth(values)
        thin = slice(None, None, -(-len(steps) // _MAX_POINTS) or 1)
        axes.plot(steps[thin], values[thin], color=color, alpha=0.2, linewidth=0.8)
        label = name.removeprefix("loss_") if name != "loss" else "loss"
        dot = "o" if len(steps) == 1 else ""
        axes.plot(steps[thin], smoothed[thin], color=color, linewidth=1.8, marker=dot, label=label)
        lowest, highest = min(lowest, float(smoothed.min())), max(highest, float(smoothed.max()))
    if 0 < lowest * _LOG_RATIO < highest:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.1 * highest or 1)  # single steps may be far above: they would flatten all curves
    axes.legend(frameon=False, fontsize=9, ncols=min(len(names), 4), loc="upper right")


def _draw_metrics(axes: Axes, val: dict[str, np.ndarray]) -> None:
    axes.set(ylabel="metric", title="Validation")
    names = [name for name in val if name not in ("step", "kind")][:_MAX_METRICS]
    for name, color in zip(names, COLORS, strict=False):
        _draw_curve(axes, val, name, color, 1.6)
    if names:
        axes.set_ylim(bottom=0)
        axes.legend(names, frameon=False, fontsize=9, ncols=min(len(names), 6), loc="lower right")


def _draw_curve(axes: Axes, columns: dict[str, np.ndarray], name: str, color: str, width: float) -> None:
    steps, values = _points(columns, name)
    thin = slice(None, None, -(-len(steps) // _MAX_POINTS) or 1)
    marker = "o" if len(steps) < 30 else ""
    axes.plot(steps[thin], values[thin], color=color, linewidth=width, marker=marker, markersize=4)


def _points(columns: dict[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values of a curve, without what is no finite number."""
    steps, values = columns.get("step", np.zeros(0)), columns.get(name, np.zeros(0))
    finite = np.isfinite(values)
    return steps[finite], values[finite]
