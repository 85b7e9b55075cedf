"""How an image larger than the network's input is cut into tiles for prediction: plain geometry.

Neighbouring tiles overlap, so that an object that one tile cuts lies whole in the next. All tiles have the same
size; the last of a row or column is shifted inwards rather than cut::

    width 10, tile 4, overlap 1/4:   |----|  |  |        columns 0..4
                                     |  |----|  |        columns 3..7
                                     |     |----|        columns 6..10
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """A window of an image, in pixels.

    Attributes:
        top: First row.
        left: First column.
        height: Rows.
        width: Columns.
    """

    top: int
    left: int
    height: int
    width: int


def cut_out(pixels: Tensor, tile: Tile) -> Tensor:
    """Return the pixels of a window as a tensor of its own; rows and columns are the last two dims."""
    rows = slice(tile.top, tile.top + tile.height)
    columns = slice(tile.left, tile.left + tile.width)
    return pixels[..., rows, columns].clone(memory_format=torch.contiguous_format)


def clip(tile: Tile, part: Tile) -> Tile:
    """Return what lies in a part of a tile.

    Args:
        tile: In pixels of the image.
        part: In pixels of the tile; may reach beyond it.

    Example:
        >>> clip(Tile(10, 0, 6, 4), Tile(4, 0, 4, 4))
        Tile(top=14, left=0, height=2, width=4)
    """
    top, left = min(part.top, tile.height), min(part.left, tile.width)
    height, width = min(part.height, tile.height - top), min(part.width, tile.width - left)
    return Tile(tile.top + top, tile.left + left, height, width)


def tile_grid(height: int, width: int, tile: int, overlap: float) -> list[Tile]:
    """Cover an image with tiles.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        tile: Rows and columns of a tile.
        overlap: Share of a tile's side that neighbours have in common at least, in ``[0, 1)``.

    Returns:
        The tiles, row by row. Along a side shorter than `tile` there is one, of the image's extent.

    Raises:
        ValueError: If an extent is not positive or `overlap` is not in ``[0, 1)``.

    Example:
        >>> [tile.left for tile in tile_grid(height=4, width=10, tile=4, overlap=0.25)]
        [0, 3, 6]
    """
    if min(height, width, tile) < 1 or not 0 <= overlap < 1:
        raise ValueError(
            f"extents must be positive and the overlap in [0, 1): got {height} x {width}, tile {tile}, "
            f"overlap {overlap}"
        )
    return [
        Tile(top, left, min(tile, height), min(tile, width))
        for top in _starts(height, tile, overlap)
        for left in _starts(width, tile, overlap)
    ]


def _starts(extent: int, tile: int, overlap: float) -> list[int]:
    """Return where tiles start along one side: the fewest that overlap enough, evenly spread."""
    if extent <= tile:
        return [0]
    # At least one pixel of progress, however much the tiles are to overlap.
    stride = max(1, tile - math.ceil(overlap * tile))
    steps = -(-(extent - tile) // stride)
    return [(extent - tile) * step // steps for step in range(steps + 1)]
