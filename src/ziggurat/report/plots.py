"""Confusion matrices and precision-recall curves as pictures.

Matplotlib is used without pyplot: no global state, no display, the same pixels each time. It takes a second to import, so
that waits until something is drawn.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ziggurat.metrics.curves import RECALLS, Curve
from ziggurat.report.names import readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, Color Universal Design, 2008: told apart by colour-blind people too
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#000000")
FAINT = "#9a9a9a"
_DPI = 110
_MAX_NUMBERED = 40  # classes of a confusion matrix with numbers
_MAX_CURVES = 8  # classes of which each curve has a colour
_NUM_EXTREMES = 3  # of more classes, so many of the best and the worst have one
_MAX_TICKS = 50


def new_figure(width: float, height: float) -> Figure:
    """Return an empty picture of so many inches."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where its caches are is no word for a run's log
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def draw_confusion(counts: np.ndarray, labels: Sequence[str], unit: str) -> Image.Image:
    """Draw a confusion matrix, each row in shares of its sum.

    Args:
        counts: Rows are the truth, columns the prediction, shape ``(K, K)``.
        labels: The name of each class.
        unit: What is counted.
    """
    num_classes, totals = len(labels), counts.sum(axis=1)
    shares = np.ma.masked_array(counts / np.maximum(totals, 1)[:, None], mask=False)
    shares[totals == 0] = np.ma.masked  # nothing is known of these classes
    ticks = range(0, num_classes, -(-num_classes // _MAX_TICKS))
    names = [text(labels[tick]) for tick in ticks]
    side = float(np.clip(0.42 * num_classes, 2.5, 11)) + 0.07 * max(map(len, names)) + 1
    figure = new_figure(side + 1.2, side)
    axes = figure.add_subplot()
    axes.set_facecolor("#ececec")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    bar = figure.colorbar(
        image, ax=axes, fraction=0.04, pad=0.02, format=lambda share, _: f"{100 * share:.0f} %"
    )
    bar.set_label("share of the row")
    size = 9 if num_classes <= 20 else 7
    axes.set_xticks(ticks, names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=size)
    of_rows = [f"{name}  ({_short(totals[tick])})" for name, tick in zip(names, ticks, strict=True)]
    axes.set_yticks(ticks, of_rows, fontsize=size)
    if num_classes <= _MAX_NUMBERED:
        _write_shares(axes, shares, counts)
    axes.set_xlabel("predicted")
    axes.set_ylabel(f"true  (number of {unit})")
    axes.set_title(f"Confusion matrix, in % of the {unit} of each row")
    return render(figure)


def _write_shares(axes: Axes, shares: np.ma.MaskedArray, counts: np.ndarray) -> None:
    """Write per cent into the cells that are not empty."""
    size = float(np.clip(170 / len(counts), 4.5, 10))
    for row, column in np.argwhere(counts > 0).tolist():
        share = float(shares[row, column])
        ink = "white" if share > 0.5 else "black"
        number = f"{100 * share:.0f}" if share >= 0.005 else "<1"
        axes.text(column, row, number, ha="center", va="center", color=ink, fontsize=size)


def _short(count: int) -> str:
    """Return a count of three digits or so.

    Example:
        >>> [_short(count) for count in (7, 1234, 56_789_000)]
        ['7', '1.2k', '57M']
    """
    for power, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= power:
            return f"{count / power:.1f}{letter}" if count < 10 * power else f"{count / power:.0f}{letter}"
    return f"{count}"


def draw_precision_recall(curves: Sequence[Curve], classes: Sequence[str], title: str) -> Image.Image:
    """Draw precision over recall: of few classes each, of many the mean, the best and the worst.

    Args:
        curves: Of the classes that occur; there may be none.
        classes: The name of each class.
        title: What is drawn.
    """
    figure = new_figure(8, 5.2)
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=title)
    axes.grid(color="#e4e4e4", linewidth=0.8)
    if not curves:
        say_nothing(axes, "no class occurs: there is nothing to find")
        return render(figure)
    ranked = sorted(curves, key=lambda curve: -curve.average_precision)
    named = set(range(len(ranked)))
    if len(ranked) > _MAX_CURVES:
        named = {*range(_NUM_EXTREMES), *range(len(ranked) - _NUM_EXTREMES, len(ranked))}
    handles, names = [], []
    if len(ranked) > 1:
        mean = np.mean([curve.precision for curve in ranked], axis=0)
        average = float(np.mean([curve.average_precision for curve in ranked]))
        handles += axes.plot(RECALLS, mean, color="black", linewidth=2.6, zorder=4)
        names.append(f"mean of {len(ranked)} classes (AP {average:.3f})")
    color = iter(COLORS)
    for rank, curve in enumerate(ranked):
        if rank in named:
            style = "--" if rank >= _NUM_EXTREMES and len(named) < len(ranked) else "-"  # the worst
            handles += axes.plot(RECALLS, curve.precision, style, color=next(color), linewidth=1.6, zorder=3)
            names.append(f"{text(classes[curve.label])} (AP {curve.average_precision:.3f})")
        else:
            axes.plot(RECALLS, curve.precision, color="#d0d0d0", linewidth=0.9, zorder=2)
    legend_title = "" if len(named) == len(ranked) else "the best classes and the worst"
    figure.legend(handles, names, title=legend_title, loc="outside right upper", frameon=False, fontsize=9)
    return render(figure)


def say_nothing(axes: Axes, why: str) -> None:
    """Write why there is nothing to be seen."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=FAINT, fontsize=12)


def text(name: str) -> str:
    """Return a name as matplotlib can write it: no formulas, no letters that its font lacks."""
    letters = "".join(letter if ord(letter) in _charmap() else "?" for letter in readable(name))
    return letters.replace("$", r"\$")


@cache
def _charmap() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def render(figure: Figure) -> Image.Image:
    """Return a figure's pixels, RGB; without metadata, which would hold versions."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
