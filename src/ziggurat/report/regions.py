"""The windows of large images in which a model is wrong most often, at full resolution.

A whole image of thousands of pixels, made small enough for a sheet, does not show why an object was missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ziggurat.data.extents import Extent, Region

SIDE = 384  # pixels of a window, of which each is a pixel of the picture
CELLS = 4  # of a window along each dim: windows begin at cells
CELL = SIDE // CELLS


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


def is_large(extent: Extent) -> bool:
    """Whether a sheet shows an image smaller than it is."""
    return max(extent) > SIDE


def worst_regions(mistakes: Sequence[tuple[int, Extent, Tensor]], count: int) -> list[BadRegion]:
    """Return windows, those with most mistakes first; each mistake counts for one, and none has no mistake.

    Args:
        mistakes: Of each image its number, its extent, and the mistakes in each cell of `CELL` pixels, shape
            ``(rows, columns)``.
        count: Most windows.

    Example:
        >>> import torch
        >>> cells = torch.zeros(8, 12)
        >>> cells[7, 11] = 3
        >>> cells[0, 0] = 1
        >>> [(bad.region.start, bad.mistakes) for bad in worst_regions([(0, (740, 1100), cells)], count=5)]
        [((356, 716), 3.0), ((0, 0), 1.0)]
    """
    left = {image: (extent, cells.double().numpy().copy()) for image, extent, cells in mistakes}
    found: list[BadRegion] = []
    while len(found) < count and left:
        sums = {image: _window_sums(cells) for image, (_, cells) in left.items()}
        image = max(sums, key=lambda one: (sums[one].max(), -one))
        most = float(sums[image].max())
        if most <= 0:
            break
        equal = np.argwhere(sums[image] == most)
        row, column = equal[len(equal) // 2].tolist()  # in the midst: the mistakes then are, too
        extent, cells = left[image]
        cells[row : row + CELLS, column : column + CELLS] = 0
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
