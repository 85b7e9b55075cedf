"""How an image larger than the network's input is cut into tiles for prediction: plain geometry, in any number of dims.

Neighbouring tiles overlap, so that an object that one tile cuts lies whole in the next. All tiles have the same
size; the last along each dim is shifted inwards rather than cut::

    width 10, tile 4, overlap 1/4:   |----|  |  |        columns 0..4
                                     |  |----|  |        columns 3..7
                                     |     |----|        columns 6..10

Near its border a tile sees half of what matters, so each pixel belongs to the core of the tile whose middle is nearest:
overlaps are cut in their middle, each dim apart::

    width 10, tile 6, overlap 1/3:   |-----:|  |        core: columns 0..5
                                     |   |:-----|       core: columns 5..10
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from ziggurat.data.extents import Extent, Region


def tile_grid(extent: Extent, tile: Extent, overlap: float) -> list[Region]:
    """Cover an image with tiles.

    Args:
        extent: Of the image.
        tile: Extent of a tile.
        overlap: Share of a tile's side that neighbours have in common at least, in ``[0, 1)``.

    Returns:
        The tiles, the last dim running fastest: row by row in two. Along a dim shorter than the tile's there is one, of the
        image's extent.

    Raises:
        ValueError: If the extents are not positive or not of the same number of dims, or `overlap` is not in ``[0, 1)``.

    Example:
        >>> [tile.left for tile in tile_grid((4, 10), (4, 4), overlap=0.25)]
        [0, 3, 6]
    """
    if len(extent) != len(tile) or min(*extent, *tile) < 1 or not 0 <= overlap < 1:
        raise ValueError(
            f"extents must be positive and the overlap in [0, 1): got {extent}, tile {tile}, overlap {overlap}"
        )
    size = tuple(map(min, tile, extent))
    starts = [_starts(whole, side, overlap) for whole, side in zip(extent, tile, strict=True)]
    return [Region(start, size) for start in itertools.product(*starts)]


def _starts(extent: int, tile: int, overlap: float) -> list[int]:
    """Return where tiles start along one dim: the fewest that overlap enough, evenly spread."""
    if extent <= tile:
        return [0]
    # At least one pixel of progress, however much the tiles are to overlap.
    stride = max(1, tile - math.ceil(overlap * tile))
    steps = -(-(extent - tile) // stride)
    return [(extent - tile) * step // steps for step in range(steps + 1)]


def core_of(tile: Region, tiles: Sequence[Region]) -> Region:
    """Return the pixels of the image that a tile answers for.

    Args:
        tile: One of `tiles`.
        tiles: All tiles of one image, as `tile_grid` makes them.

    Returns:
        In pixels of the image; the cores of all tiles partition it.

    Example:
        >>> tiles = tile_grid((4, 10), (4, 4), overlap=0.25)
        >>> [core.slices[1] for core in (core_of(tile, tiles) for tile in tiles)]
        [slice(0, 3, None), slice(3, 6, None), slice(6, 10, None)]
    """
    return cores_of(tiles)[tile]


def cores_of(tiles: Sequence[Region]) -> dict[Region, Region]:
    """Return what each of an image's tiles answers for."""
    starts = [sorted(set(firsts)) for firsts in zip(*(tile.start for tile in tiles), strict=True)]
    found = {}
    for tile in tiles:
        sides = [_core(*of_dim) for of_dim in zip(tile.start, tile.size, starts, strict=True)]
        found[tile] = Region.between([first for first, _ in sides], [last for _, last in sides])
    return found


def _core(start: int, length: int, starts: list[int]) -> tuple[int, int]:
    """Return what the tile at `start` keeps along one dim: its first pixel, and the one behind its last."""
    place = starts.index(start)
    first = (starts[place - 1] + length + start) // 2 if place else start
    last = (start + length + starts[place + 1]) // 2 if place + 1 < len(starts) else start + length
    return first, last
