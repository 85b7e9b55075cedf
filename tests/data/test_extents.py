"""Regions of one, two and three dims: what numpy's masks say of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ziggurat.data.batch import Part, pad_and_stack
from ziggurat.data.extents import Extent, Region, clip, cut_out, hull, largest, rounded_up

SIDE = 12  # of the arrays that regions are drawn in


@st.composite
def regions(draw: st.DrawFn, count: int) -> list[Region]:
    """Draw some regions of the same number of dims that lie in an array of `SIDE` along each."""
    dims = draw(st.integers(1, 3))
    found = []
    for _ in range(count):
        start = tuple(draw(st.integers(0, SIDE)) for _ in range(dims))
        found.append(Region(start, tuple(draw(st.integers(0, SIDE - first)) for first in start)))
    return found


def mask(region: Region) -> np.ndarray:
    array = np.zeros((SIDE,) * len(region.size), dtype=bool)
    array[region.slices] = True
    return array


@settings(deadline=None)
@given(regions(2))
def test_an_intersection_is_what_both_have(two: list[Region]) -> None:
    one, other = two
    common = one.intersection(other)
    assert (mask(common) == (mask(one) & mask(other))).all()
    assert common.volume == mask(common).sum()
    assert common.volume == other.intersection(one).volume


@settings(deadline=None)
@given(regions(3))
def test_a_hull_is_the_smallest_region_of_all(several: list[Region]) -> None:
    found = hull(several)
    assert all(one.intersection(found).size == one.size for one in several)
    assert found.start == tuple(np.min([one.start for one in several], axis=0))
    assert found.end == tuple(np.max([one.end for one in several], axis=0))


@settings(deadline=None)
@given(regions(2))
def test_a_clip_is_a_cut_of_a_cut(two: list[Region]) -> None:
    region, part = two
    pixels = torch.arange(SIDE ** len(region.size)).reshape((SIDE,) * len(region.size))
    assert torch.equal(cut_out(pixels, clip(region, part)), cut_out(pixels, region)[part.slices])


@settings(deadline=None)
@given(regions(2), st.integers(-5, 5))
def test_moving_and_seeing_from_undo_each_other(two: list[Region], step: int) -> None:
    region, other = two
    by = tuple(step + number for number in range(len(region.size)))
    assert region.moved(by).seen_from(by) == region
    assert region.seen_from(other.start).moved(other.start) == region


@settings(deadline=None)
@given(regions(2))
def test_a_part_holds_of_each_image_what_lies_in_it(two: list[Region]) -> None:
    image, tile = Region.whole(two[0].size), two[1]
    part = Part((SIDE,) * len(tile.size), tile, tile)
    (size,) = part.sizes([image.size])
    assert np.prod(size) == (mask(image) & mask(tile)).sum()
    own = mask(image)[tile.slices]
    assert own[Region.whole(size).slices].all()


@settings(deadline=None)
@given(st.lists(regions(1), min_size=1, max_size=1).map(lambda drawn: drawn[0][0].size), st.integers(1, 9))
def test_extents_that_hold_others(extent: Extent, multiple: int) -> None:
    padded = rounded_up(extent, multiple)
    assert all(
        more % multiple == 0 and size <= more < size + multiple
        for size, more in zip(extent, padded, strict=True)
    )
    assert largest([extent, padded]) == padded


@pytest.mark.parametrize("shapes", [[(3, 5), (3, 7)], [(3, 5, 9), (3, 7, 2)], [(3, 2, 5, 9), (3, 4, 7, 2)]])
def test_images_of_any_number_of_dims_are_padded(shapes: list[tuple[int, ...]]) -> None:
    images = [torch.ones(shape) for shape in shapes]
    stacked = pad_and_stack(images, 4)
    assert all(size % 4 == 0 for size in stacked.shape[2:])
    for one, image in zip(stacked, images, strict=True):
        assert torch.equal(one[Region.whole(tuple(image.shape)).slices], image)
        assert one.sum() == image.sum()


def test_what_is_no_region_is_refused() -> None:
    with pytest.raises(ValueError, match="as many starts as sizes"):
        Region((0, 0), (3,))
    with pytest.raises(ValueError, match="no negative size"):
        Region((0,), (-1,))
    assert Region.between((5, 2), (3, 4)) == Region((5, 2), (0, 2))
