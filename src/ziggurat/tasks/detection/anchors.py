"""Where the positions of each level lie, and the anchors around them: as torchvision places them.

A position lies at ``index * step`` pixels, without an offset of half a step; the step is the whole number of
times that the level's rows (columns) go into those of the padded image. For the coarsest levels of an image that
is not a multiple of their stride it is smaller than the stride. An anchor is a box about a position.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ziggurat.models.detector import Detector
from ziggurat.models.levels import Level

RATIOS = (0.5, 1.0, 2.0)  # height / width
SCALES = (
    1.0,
    2 ** (1 / 3),
    2 ** (2 / 3),
)  # Lin et al., Focal Loss for Dense Object Detection, 2017, section 4


@dataclass(frozen=True)
class Grid:
    """The positions of one level for one size of image.

    Attributes:
        name: The level.
        rows: Rows of positions.
        columns: Columns of positions.
        row_step: Pixels between two rows.
        column_step: Pixels between two columns.
        stride: The level's declared stride in pixels, which is the unit of its boxes.
    """

    name: str
    rows: int
    columns: int
    row_step: int
    column_step: int
    stride: int

    def __len__(self) -> int:
        return self.rows * self.columns


def make_grids(
    levels: dict[str, Level], sizes: dict[str, tuple[int, int]], height: int, width: int
) -> list[Grid]:
    """Return the grid of each level.

    Args:
        levels: The levels, from the finest to the coarsest.
        sizes: Rows and columns of each level.
        height: Rows of the padded image.
        width: Columns of the padded image.

    Example:
        >>> make_grids({"p3": Level(256, 8)}, {"p3": (4, 8)}, 32, 64)[0].row_step
        8
    """
    grids = []
    for name, level in levels.items():
        rows, columns = sizes[name]
        grids.append(Grid(name, rows, columns, height // rows, width // columns, level.stride))
    return grids


def level_grids(model: Detector, height: int, width: int) -> list[Grid]:
    """Return the grid of each level of a detector, for images of a size before the model pads them."""
    return make_grids(model.levels, model.level_sizes(height, width), *model.padded_size(height, width))


@functools.lru_cache(maxsize=64)
def base_anchors(kind: Literal["fcos", "retinanet", "atss"], stride: int, device: torch.device) -> Tensor:
    """Return the anchors about the position (0, 0).

    Args:
        kind: ``fcos``: one square whose side is the stride; ``retinanet``: three shapes of three sizes from four
            strides on; ``atss``: one square of eight strides.
        stride: The level's stride in pixels.
        device: Where they are needed.

    Returns:
        Corners in whole pixels, float32, shape ``(A, 4)``.

    Example:
        >>> base_anchors("fcos", 8, torch.device("cpu"))
        tensor([[-4., -4.,  4.,  4.]])
    """
    squares = {"fcos": [stride], "atss": [8 * stride]}
    sizes = torch.tensor(squares.get(kind) or [int(4 * stride * scale) for scale in SCALES])
    tall = torch.tensor([1.0] if kind in squares else RATIOS).sqrt()
    widths = ((1 / tall)[:, None] * sizes).flatten()
    heights = (tall[:, None] * sizes).flatten()
    return (torch.stack([-widths, -heights, widths, heights], dim=1) / 2).round().to(device)


def anchors_at(grid: Grid, base_A4: Tensor, row: Tensor, column: Tensor, anchor: Tensor) -> Tensor:
    """Return the anchors at some positions of a level.

    Args:
        grid: The level's positions.
        base_A4: The level's anchors about (0, 0).
        row: Row of each anchor, int64, shape ``(N,)``.
        column: Column of each anchor.
        anchor: Which of the anchors at that position.

    Returns:
        Corners in pixels, float32, shape ``(N, 4)``.
    """
    x, y = column * grid.column_step, row * grid.row_step
    return torch.stack([x, y, x, y], dim=1) + base_A4[anchor]
