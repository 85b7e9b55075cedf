"""Cores of tiles partition the image and lie in the middle of their tiles."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ziggurat.data.tiles import Tile, tile_grid
from ziggurat.tasks.segmentation.label_tiles import core_of, join_tiles

extents = st.integers(1, 60)


@settings(deadline=None, max_examples=50)
@given(extents, extents, st.integers(1, 24), st.floats(0, 0.99))
def test_cores_partition_the_image_and_each_pixel_takes_the_nearest_middle(
    height: int, width: int, side: int, overlap: float
) -> None:
    tiles = tile_grid(height, width, side, overlap)
    owner = torch.full((height, width), -1)
    for number, tile in enumerate(tiles):
        rows, columns = core_of(tile, tiles)
        assert tile.top <= rows.start < rows.stop <= tile.top + tile.height
        assert tile.left <= columns.start < columns.stop <= tile.left + tile.width
        assert (owner[rows, columns] == -1).all()
        owner[rows, columns] = number
    assert (owner >= 0).all()
    # twice the distance along columns from each pixel's middle to the middle of its tile, and of all tiles
    middles = torch.tensor([2 * tile.left + tile.width for tile in tiles])
    pixels = 2 * torch.arange(width) + 1
    distance = (pixels - middles[owner]).abs()
    assert (distance <= (pixels[:, None] - middles).abs().amin(dim=1) + 1).all()


@settings(deadline=None)
@given(extents, extents, st.integers(1, 24), st.floats(0, 0.9))
def test_tiles_of_a_map_join_to_the_map(height: int, width: int, side: int, overlap: float) -> None:
    whole = torch.randint(0, 256, (height, width), dtype=torch.uint8)
    tiles = [
        (t, whole[t.top : t.top + t.height, t.left : t.left + t.width])
        for t in tile_grid(height, width, side, overlap)
    ]
    joined = join_tiles(tiles[::-1])  # in any order
    assert joined.dtype == torch.uint8
    assert torch.equal(joined, whole)


def test_by_hand() -> None:
    tiles = [(tile, torch.full((4, 4), number)) for number, tile in enumerate(tile_grid(4, 10, 4, 0.25))]
    assert join_tiles(tiles)[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


def test_what_is_not_of_a_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="one tile at least"):
        join_tiles([])
    with pytest.raises(ValueError, match=r"got \(3, 3\)"):
        join_tiles([(Tile(0, 0, 4, 4), torch.zeros(3, 3))])
