"""The label maps of tiles join to that of the image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ziggurat.data.extents import Region
from ziggurat.data.tiles import tile_grid
from ziggurat.tasks.segmentation.label_tiles import join_tiles

extents = st.integers(1, 60)


@settings(deadline=None)
@given(st.lists(extents, min_size=1, max_size=3), st.integers(1, 24), st.floats(0, 0.9))
def test_tiles_of_a_map_join_to_the_map(sizes: list[int], side: int, overlap: float) -> None:
    extent = tuple(min(size, 60 if len(sizes) < 3 else 16) for size in sizes)
    whole = torch.randint(0, 256, extent, dtype=torch.uint8)
    tiles = [(tile, whole[tile.slices]) for tile in tile_grid(extent, (side,) * len(extent), overlap)]
    joined = join_tiles(tiles[::-1])  # in any order
    assert joined.dtype == torch.uint8
    assert torch.equal(joined, whole)


def test_by_hand() -> None:
    tiles = [
        (tile, torch.full((4, 4), number)) for number, tile in enumerate(tile_grid((4, 10), (4, 4), 0.25))
    ]
    assert join_tiles(tiles)[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


def test_what_is_not_of_a_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="one tile at least"):
        join_tiles([])
    with pytest.raises(ValueError, match=r"got \(3, 3\)"):
        join_tiles([(Region((0, 0), (4, 4)), torch.zeros(3, 3))])
