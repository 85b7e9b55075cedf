from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ziggurat.data.tiles import Tile, tile_grid


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    tile=st.integers(1, 40),
    overlap=st.floats(0, 0.99),
)
def test_tiles_cover_the_image(height: int, width: int, tile: int, overlap: float) -> None:
    tiles = tile_grid(height, width, tile, overlap)
    covered = np.zeros((height, width), dtype=int)
    for t in tiles:
        assert (t.height, t.width) == (min(tile, height), min(tile, width))
        assert t.top >= 0
        assert t.left >= 0
        assert t.top + t.height <= height
        assert t.left + t.width <= width
        covered[t.top : t.top + t.height, t.left : t.left + t.width] += 1
    assert covered.min() >= 1
    assert len(set(tiles)) == len(tiles)


@given(extent=st.integers(1, 300), tile=st.integers(2, 60), overlap=st.floats(0, 0.9))
def test_neighbours_overlap_enough(extent: int, tile: int, overlap: float) -> None:
    starts = [t.left for t in tile_grid(1, extent, tile, overlap)]
    assert starts == sorted(starts)
    for left, right in itertools.pairwise(starts):
        # less only where more would mean no progress at all
        assert left + tile - right >= min(overlap * tile, tile - 1)


def test_small_image_is_one_tile() -> None:
    assert tile_grid(30, 20, 64, 0.25) == [Tile(0, 0, 30, 20)]


def test_narrow_image() -> None:
    assert tile_grid(10, 3, 4, 0.0) == [Tile(0, 0, 4, 3), Tile(3, 0, 4, 3), Tile(6, 0, 4, 3)]


@pytest.mark.parametrize("arguments", [(0, 5, 4, 0.1), (5, 5, 0, 0.1), (5, 5, 4, 1.0), (5, 5, 4, -0.1)])
def test_bad_arguments(arguments: tuple[int, int, int, float]) -> None:
    with pytest.raises(ValueError, match="extents must be positive"):
        tile_grid(*arguments)
