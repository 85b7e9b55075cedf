"""The windows of large images in which a model is wrong most often, at full resolution.

A whole image of thousands of pixels, made small enough for a sheet, does not show why an object was missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ziggurat.data.extents import Region
from ziggurat.metrics.mistakes import CELL, CELLS, SIDE, Mistakes


@dataclass(frozen=True)
class BadRegion:
    """A window with mistakes.

    Attributes:
        image: Number of its image.
        region: Where it is.
        mistakes: How many there are in it.
    """

    image: int
    region: Region
    mistakes: float

    @property
    def described(self) -> str:
        """How many mistakes there are, and where."""
        (top, left), (bottom, right) = self.region.start, self.region.end
        return f"{self.mistakes:g} mistakes in rows {top} to {bottom}, columns {left} to {right}"


def worst_regions(mistakes: Sequence[Mistakes], count: int) -> list[BadRegion]:
    """Return windows, those with most mistakes first; each mistake counts for one, and none has no mistake.

    Args:
        mistakes: Of each image.
        count: Most windows.

    Example:
        >>> import torch
        >>> cells = torch.zeros(8, 12)
        >>> cells[7, 11] = 3
        >>> cells[0, 0] = 1
        >>> [(bad.region.start, bad.mistakes) for bad in worst_regions([Mistakes(0, (740, 1100), cells)], count=5)]
        [((356, 716), 3.0), ((0, 0), 1.0)]
    """
    left = {one.image: (one.extent, one.cells.double().numpy().copy()) for one in mistakes}
    sums = {image: _window_sums(cells) for image, (_, cells) in left.items()}
    found: list[BadRegion] = []
    while len(found) < count and left:
        image = max(sums, key=lambda one: (sums[one].max(), -one))
        most = float(sums[image].max())
        if most <= 0:
            break
        equal = np.argwhere(sums[image] == most)
        row, column = equal[len(equal) // 2].tolist()  # in the midst: the mistakes then are, too
        extent, cells = left[image]
        cells[row : row + CELLS, column : column + CELLS] = 0
        sums[image] = _window_sums(cells)
        size = tuple(min(SIDE, length) for length in extent)
        start = tuple(
            min(cell * CELL, length - side)
            for cell, length, side in zip((row, column), extent, size, strict=True)
        )
        found.append(BadRegion(image, Region(start, size), most))
    return found


def _window_sums(cells: np.ndarray) -> np.ndarray:
    """Return the sum of each window of cells, by the cell that it begins with."""
    rows, columns = (max(CELLS, length) for length in cells.shape)
    padded = np.zeros((rows + 1, columns + 1))
    padded[1 : cells.shape[0] + 1, 1 : cells.shape[1] + 1] = cells
    sums = padded.cumsum(axis=0).cumsum(axis=1)
    windows: np.ndarray = (
        sums[CELLS:, CELLS:] - sums[:-CELLS, CELLS:] - sums[CELLS:, :-CELLS] + sums[:-CELLS, :-CELLS]
    )
    return windows
