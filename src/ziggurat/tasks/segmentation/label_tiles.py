"""From the label maps of overlapping tiles to the label map of an image: each pixel takes its label from its tile's core."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

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
    regions = [tile for tile, _ in tiles]
    first = tiles[0][1]
    joined: Tensor = torch.empty(hull(regions).end, dtype=first.dtype, device=first.device)
    cores = cores_of(regions)
    for tile, labels in tiles:
        joined[cores[tile].slices] = _core(tile, labels, cores)
    return joined


def label_bands(tiles: Iterable[tuple[Region, Tensor]], regions: Sequence[Region]) -> Iterator[Tensor]:
    """Yield the label map of an image from above, in bands of its full width: no tile below can change them.

    Args:
        tiles: In order, row by row, with the label of each of their pixels.
        regions: All tiles of the image, as `tile_grid` makes them.

    Raises:
        ValueError: If a label map is not of its tile's size.
    """
    cores, width = cores_of(regions), hull(regions).end[1]
    for _, row in itertools.groupby(tiles, key=lambda one: one[0].top):
        band: Tensor | None = None
        for tile, labels in row:
            core = cores[tile]
            if band is None:
                band = torch.empty((core.height, width), dtype=labels.dtype, device=labels.device)
            band[:, core.slices[1]] = _core(tile, labels, cores)
        assert band is not None
        yield band


def _core(tile: Region, labels: Tensor, cores: dict[Region, Region]) -> Tensor:
    """Return the labels that a tile answers for."""
    if labels.shape != tile.size:
        raise ValueError(f"label maps must be of their tile's size: got {tuple(labels.shape)} for {tile}")
    return labels[cores[tile].seen_from(tile.start).slices]
