"""Blocks for training and for validation: every pixel is of one part, and the share is what was asked."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ziggurat.data.blocks import count_blocks, cut_evenly, divide, join, natural_block

SIDES = st.integers(1, 150)
EXTENTS = st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(EXTENTS, st.integers(8, 80), st.floats(0.01, 0.9), st.integers(0, 5))
def test_every_pixel_is_of_one_part_and_the_share_is_kept(extents, block, share, seed):
    if count_blocks(extents, block) < 2:
        with pytest.raises(ValueError, match="two blocks at least"):
            divide(extents, block, share, seed)
        return
    division = divide(extents, block, share, seed)
    times = [np.zeros(extent, int) for extent in extents]
    for part in ("train", "val"):
        assert division.num_blocks[part] >= 1
        for image, region in division.regions[part]:
            times[image][region.slices] += 1
            assert region.volume
    assert all((one == 1).all() for one in times)
    assert sum(division.num_blocks.values()) == count_blocks(extents, block)
    sides = [[np.diff(cut_evenly(length, block)).max() for length in extent] for extent in extents]
    asked = share * sum(height * width for height, width in extents)
    assert abs(division.num_pixels("val") - asked) <= max(height * width for height, width in sides)
    assert divide(extents, block, share, seed) == division


def test_the_seed_decides_which_blocks_and_not_how_many():
    found = [divide([(800, 1200), (400, 400)], 100, 0.2, seed) for seed in range(8)]
    assert {one.num_blocks["val"] for one in found} == {22}
    assert len({one.regions["val"] for one in found}) == 8


def test_each_of_several_images_gives_its_share():
    division = divide([(1000, 1000)] * 3, 100, 0.2, seed=3)
    pixels = [
        sum(region.volume for of, region in division.regions["val"] if of == image) for image in range(3)
    ]
    assert pixels == [200_000] * 3


def test_small_images_are_divided_as_wholes_by_the_key():
    found = {
        tuple(image for image, _ in divide([(50, 60)] * 20, 100, 0.2, seed).regions["val"])
        for seed in range(5)
    }
    assert {len(images) for images in found} == {4}
    assert len(found) == 5


@settings(max_examples=100, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6))))
def test_joined_blocks_cover_what_they_are_made_of(cells):
    covered = [
        cell
        for box in join(cells)
        for cell in itertools.product(
            *(range(first, last) for first, last in zip(box.start, box.end, strict=True))
        )
    ]
    assert sorted(covered) == sorted(cells)


def test_blocks_are_joined_to_few_regions():
    full = set(itertools.product(range(5), range(4)))
    assert len(join(full)) == 1
    assert len(join(full - {(2, 1)})) == 4  # around the hole
    columns = {(row, column) for row, column in full if column != 1}
    assert len(join(columns)) == 2


def test_the_natural_block_follows_the_crop_and_the_images():
    assert natural_block([(20000, 20000)], 512, 0.2) == 1024
    assert natural_block([(1730, 2299)], 512, 0.2) == 512
    assert natural_block([(400, 400)], 512, 0.2) == 256  # not less than half of a crop
    assert natural_block([(400, 400)] * 50, 512, 0.2) == 1024
    assert natural_block([(4096, 4096)], 512, 0.2) == natural_block([(4096, 4096)], 512, 0.8) == 768
