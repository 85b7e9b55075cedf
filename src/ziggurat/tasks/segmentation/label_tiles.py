"""From the label maps of overlapping tiles to the label map of an image.

Near its border a tile sees half of what matters, so each pixel takes its label from the tile whose middle is nearest:
overlaps are cut in their middle, rows and columns apart::

    width 10, tile 6, overlap 1/3:   |-----:|  |        core: columns 0..5
                                     |   |:-----|       core: columns 5..10
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ziggurat.data.tiles import Tile


def core_of(tile: Tile, tiles: Sequence[Tile]) -> tuple[slice, slice]:
    """Return which rows and columns of the image a tile answers for.

    Args:
        tile: One of `tiles`.
        tiles: All tiles of one image, as `tile_grid` makes them.

    Returns:
        Rows and columns in pixels of the image; the cores of all tiles partition it.

    Example:
        >>> from ziggurat.data.tiles import tile_grid
        >>> tiles = tile_grid(height=4, width=10, tile=4, overlap=0.25)
        >>> [(core.start, core.stop) for core in (core_of(tile, tiles)[1] for tile in tiles)]
        [(0, 3), (3, 6), (6, 10)]
    """
    tops, lefts = _starts(tiles)
    return _core(tile.top, tile.height, tops), _core(tile.left, tile.width, lefts)


def _starts(tiles: Sequence[Tile]) -> tuple[list[int], list[int]]:
    """Return the first rows and the first columns that tiles have."""
    return sorted({tile.top for tile in tiles}), sorted({tile.left for tile in tiles})


def _core(start: int, length: int, starts: list[int]) -> slice:
    """Return what the tile at `start` keeps along one side."""
    place = starts.index(start)
    first = (starts[place - 1] + length + start) // 2 if place else start
    last = (start + length + starts[place + 1]) // 2 if place + 1 < len(starts) else start + length
    return slice(first, last)


def join_tiles(tiles: Sequence[tuple[Tile, Tensor]]) -> Tensor:
    """Return the label map of an image from those of its tiles.

    Args:
        tiles: All tiles of one image, as `tile_grid` makes them, with the label of each of their pixels, shape
            ``(tile.height, tile.width)``.

    Returns:
        The label of each pixel of the image, in the type and on the device of the tiles', shape ``(H, W)``.

    Raises:
        ValueError: If there is no tile, or a label map is not of its tile's size.
    """
    if not tiles:
        raise ValueError("an image has one tile at least: got none")
    wrong = [
        (tile, tuple(labels.shape)) for tile, labels in tiles if labels.shape != (tile.height, tile.width)
    ]
    if wrong:
        raise ValueError(f"label maps must be of their tile's size: got {wrong[0][1]} for {wrong[0][0]}")
    tops, lefts = _starts([tile for tile, _ in tiles])
    last = max((tile for tile, _ in tiles), key=lambda tile: (tile.top, tile.left))
    height, width = last.top + last.height, last.left + last.width
    joined: Tensor = torch.empty((height, width), dtype=tiles[0][1].dtype, device=tiles[0][1].device)
    for tile, labels in tiles:
        rows, columns = _core(tile.top, tile.height, tops), _core(tile.left, tile.width, lefts)
        joined[rows, columns] = labels[
            rows.start - tile.top : rows.stop - tile.top, columns.start - tile.left : columns.stop - tile.left
        ]
    return joined
