"""A line through what was measured: seconds by work, with how far off it is for what it has not seen."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

Point = tuple[float, float]  # work and seconds


class Line(NamedTuple):
    """Seconds as ``start + slope * work``.

    Attributes:
        start: What it takes to begin.
        slope: Seconds for a unit of work.
        top: The most work of its points: beyond, it is not to be believed.
        residual: How far off points are by the line through all others, as a share of their seconds; None of less than three.
    """

    start: float
    slope: float
    top: float
    residual: float | None

    def at(self, work: float, beyond: float | None = None) -> float:
        """Return the seconds of some work.

        Args:
            work: Of a kernel.
            beyond: Seconds for a unit of work above `top`; None goes on with the line.
        """
        known = work if beyond is None else min(work, self.top)
        return self.start + self.slope * known + (work - known) * (beyond or 0.0)


def fit_line(points: Sequence[Point]) -> Line:
    """Return the line whose relative errors have the least squares, of those that neither start nor fall below zero.

    Args:
        points: One or more; work and seconds, above zero.

    Example:
        >>> fit_line([(1, 3), (2, 5), (4, 9)])
        Line(start=1.0, slope=2.0, top=4, residual=0.0)
    """
    start, slope = _least_squares(points)
    residual = None
    if len({work for work, _ in points}) > 2:
        off = 0.0
        for number, (work, seconds) in enumerate(points):
            left, rise = _least_squares([*points[:number], *points[number + 1 :]])
            off += abs(left + rise * work - seconds)
        residual = round(off / sum(seconds for _, seconds in points), 6)
    return Line(round(start, 12), slope, max(work for work, _ in points), residual)


def _least_squares(points: Sequence[Point]) -> tuple[float, float]:
    """Return start and slope; each point has the weight of its inverse square, so that errors are relative."""
    if len({work for work, _ in points}) < 2:
        return 0.0, statistics.fmean(seconds / work for work, seconds in points)
    weights = [1 / seconds**2 for _, seconds in points]
    total = sum(weights)
    mean = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / total
    height = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
    across = sum(w * (x - mean) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    rise = sum(w * (x - mean) * (y - height) for w, (x, y) in zip(weights, points, strict=True))
    slope = rise / across
    start = height - slope * mean
    if slope < 0:  # takes the same, whatever the work
        return height, 0.0
    if start < 0:
        through_zero = sum(w * x * y for w, (x, y) in zip(weights, points, strict=True))
        return 0.0, through_zero / sum(w * x * x for w, (x, _) in zip(weights, points, strict=True))
    return start, slope
