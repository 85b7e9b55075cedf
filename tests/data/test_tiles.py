"""Tiles cover an image, and their cores partition it, in one, two and three dims."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ziggurat.data.extents import Extent, Region
from ziggurat.data.tiles import core_of, cores_of, tile_grid


@st.composite
def grids(draw: st.DrawFn) -> tuple[Extent, Extent, float]:
    """Draw an image, a tile and an overlap; images of many dims are small."""
    dims = draw(st.integers(1, 3))
    most = {1: 300, 2: 60, 3: 16}[dims]
    extent = tuple(draw(st.lists(st.integers(1, most), min_size=dims, max_size=dims)))
    tile = tuple(draw(st.lists(st.integers(1, 24), min_size=dims, max_size=dims)))
    return extent, tile, draw(st.floats(0, 0.95))


@settings(deadline=None)
@given(grids())
def test_tiles_cover_the_image(grid: tuple[Extent, Extent, float]) -> None:
    extent, tile, overlap = grid
    tiles = tile_grid(extent, tile, overlap)
    covered = np.zeros(extent, dtype=int)
    for one in tiles:
        assert one.size == tuple(map(min, tile, extent))
        assert one.intersection(Region.whole(extent)) == one
        covered[one.slices] += 1
    assert covered.min() >= 1
    assert len(set(tiles)) == len(tiles)
    assert tiles == sorted(tiles, key=lambda one: one.start), "the last dim runs fastest"


@given(extent=st.integers(1, 300), tile=st.integers(2, 60), overlap=st.floats(0, 0.9), dims=st.integers(1, 3))
def test_neighbours_overlap_enough(extent: int, tile: int, overlap: float, dims: int) -> None:
    others = (1,) * (dims - 1)
    starts = [one.start[-1] for one in tile_grid((*others, extent), (*others, tile), overlap)]
    assert starts == sorted(starts)
    for left, right in itertools.pairwise(starts):
        # less only where more would mean no progress at all
        assert left + tile - right >= min(overlap * tile, tile - 1)


@settings(deadline=None)
@given(grids())
def test_cores_partition_the_image_and_each_pixel_takes_the_nearest_middle(
    grid: tuple[Extent, Extent, float],
) -> None:
    extent, tile, overlap = grid
    tiles = tile_grid(extent, tile, overlap)
    owner = np.full(extent, -1)
    cores = cores_of(tiles)
    for number, one in enumerate(tiles):
        core = cores[one]
        assert core.intersection(one) == core
        assert core.volume
        assert (owner[core.slices] == -1).all()
        owner[core.slices] = number
    assert (owner >= 0).all()
    for dim, size in enumerate(extent):
        # twice the distance along a dim from each pixel's middle to the middle of its tile, and of all tiles
        middles = np.array([2 * one.start[dim] + one.size[dim] for one in tiles])
        pixels = 2 * np.arange(size) + 1
        nearest = np.abs(pixels[:, None] - middles).min(axis=1)
        others = [1] * len(extent)
        others[dim] = size
        distance = np.abs(pixels.reshape(others) - middles[owner])
        assert (distance <= nearest.reshape(others) + 1).all()


def test_small_image_is_one_tile() -> None:
    assert tile_grid((30, 20), (64, 64), 0.25) == [Region((0, 0), (30, 20))]


def test_narrow_image() -> None:
    assert [tile.start for tile in tile_grid((10, 3), (4, 4), 0.0)] == [(0, 0), (3, 0), (6, 0)]


def test_a_core_by_hand() -> None:
    tiles = tile_grid((10,), (6,), 1 / 3)
    assert [core_of(tile, tiles) for tile in tiles] == [Region((0,), (5,)), Region((5,), (5,))]


@pytest.mark.parametrize(
    ("extent", "tile", "overlap"),
    [
        ((0, 5), (4, 4), 0.1),
        ((5, 5), (0, 4), 0.1),
        ((5,), (4, 4), 0.1),
        ((5, 5), (4, 4), 1.0),
        ((5, 5), (4, 4), -0.1),
    ],
)
def test_bad_arguments(extent: Extent, tile: Extent, overlap: float) -> None:
    with pytest.raises(ValueError, match="extents must be positive"):
        tile_grid(extent, tile, overlap)
