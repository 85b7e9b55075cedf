"""From the label maps of overlapping tiles to the label map of an image: each pixel takes its label from its tile's core."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ziggurat.data.extents import Region, hull
from ziggurat.data.tiles import cores_of


def join_tiles(tiles: Sequence[tuple[Region, Tensor]]) -> Tensor:
    """Return the label map of an image from those of its tiles.

    Args:
        tiles: All tiles of one image, as `tile_grid` makes them, with the label of each of their pixels, of the shape
            of the tile.

    Returns:
        The label of each pixel of the image, in the type and on the device of the tiles'.

    Raises:
        ValueError: If there is no tile, or a label map is not of its tile's size.
    """
    if not tiles:
        raise ValueError("an image has one tile at least: got none")
    wrong = [(tile, tuple(labels.shape)) for tile, labels in tiles if labels.shape != tile.size]
    if wrong:
        raise ValueError(f"label maps must be of their tile's size: got {wrong[0][1]} for {wrong[0][0]}")
    regions = [tile for tile, _ in tiles]
    first = tiles[0][1]
    joined: Tensor = torch.empty(hull(regions).end, dtype=first.dtype, device=first.device)
    cores = cores_of(regions)
    for tile, labels in tiles:
        core = cores[tile]
        joined[core.slices] = labels[core.seen_from(tile.start).slices]
    return joined
