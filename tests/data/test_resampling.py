"""A region of a resized image is that of the whole, bit by bit, and the whole is what torchvision makes of it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional

from ziggurat.data.extents import Extent, Region
from ziggurat.data.resampling import Grid, grids_of, level_for, resample, resized_region, taps

SIDES = st.integers(1, 40)
EXTENTS = st.tuples(SIDES, SIDES)


def picture(extent: Extent, bands: int = 3, dtype: torch.dtype = torch.uint8) -> Tensor:
    numbers = torch.Generator().manual_seed(math.prod(extent) + bands)
    pixels = torch.randint(0, 256, (bands, *extent), generator=numbers, dtype=torch.uint8)
    return pixels if dtype == torch.uint8 else pixels.to(dtype) / 7


def whole(image: Tensor, resized: Extent, antialias: bool = True, most: int = 1 << 20) -> Tensor:
    return region_of(image, resized, Region.whole(resized), antialias, most)


def region_of(image: Tensor, resized: Extent, region: Region, antialias: bool, most: int) -> Tensor:
    extent = tuple(image.shape[1:])
    return resized_region(
        lambda source: image[source.last_dims], grids_of(extent, resized), region, antialias, most
    )


@st.composite
def regions(draw: st.DrawFn) -> tuple[Extent, Region]:
    resized = draw(EXTENTS)
    starts = [draw(st.integers(0, size - 1)) for size in resized]
    sizes = [draw(st.integers(1, size - start)) for size, start in zip(resized, starts, strict=True)]
    return resized, Region(tuple(starts), tuple(sizes))


# PyTorch 2.14's antialias takes an image of one column for one of many bands, and gives other pixels, or an error
@settings(deadline=None)
@given(
    st.tuples(SIDES, SIDES.map(lambda side: side + 1)),
    st.tuples(SIDES, SIDES.map(lambda side: side + 1)),
    st.booleans(),
)
def test_the_whole_is_what_torchvision_makes_of_it(extent, resized, antialias):
    image = picture(extent)
    expected = functional.resize(image.float(), list(resized), antialias=antialias)
    torch.testing.assert_close(whole(image, resized, antialias), expected, rtol=0, atol=0.02)
    levels = functional.resize(image, list(resized), antialias=antialias)
    assert (whole(image, resized, antialias).round() - levels.float()).abs().max() <= 1


@settings(deadline=None)
@given(EXTENTS, regions(), st.booleans(), st.integers(1, 200), st.sampled_from([1, 3, 5]))
def test_any_region_has_the_bits_of_the_whole(extent, asked, antialias, most, bands):
    resized, region = asked
    image = picture(extent, bands, torch.uint8 if bands == 3 else torch.float32)
    expected = whole(image, resized, antialias)[region.last_dims]
    found = region_of(image, resized, region, antialias, most)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@settings(deadline=None)
@given(SIDES, SIDES, st.booleans())
def test_weights_are_a_mean_of_pixels_within(size, resized, antialias):
    found = taps(Grid(size, size / resized), 0, resized, antialias)
    torch.testing.assert_close(found.weights.sum(dim=1), torch.ones(resized), rtol=0, atol=1e-6)
    assert (found.weights >= 0).all()
    assert found.start >= 0
    assert found.start + found.size <= size
    assert found.places.min() == 0
    assert found.places.max() == found.size - 1, "nothing is read that takes no part"


def test_weights_worked_by_hand():
    half = taps(Grid(4, 2.0), 0, 2)  # middles at 1 and 3, a triangle of two pixels to each side
    assert half.places.tolist()[0][:3] == [0, 0, 1] or half.places.tolist()[0][-3:] == [0, 1, 2]
    image = torch.tensor([[[0.0, 70.0, 140.0, 210.0]]])
    rows = taps(Grid(1, 1.0), 0, 1)
    # the left one: 0.75 * 0 + 0.75 * 70 + 0.25 * 140, of 1.75 in all; the right one mirrored
    expected = torch.tensor(
        [[[(0.75 * 70 + 0.25 * 140) / 1.75, (0.25 * 70 + 0.75 * 140 + 0.75 * 210) / 1.75]]]
    )
    torch.testing.assert_close(resample(image, [rows, half]), expected)


def test_what_holds_nothing_spreads_as_far_as_it_takes_part():
    image = torch.ones(1, 8, 8)
    image[0, 3, 3] = math.nan
    smaller = whole(image, (4, 4))
    assert torch.isnan(smaller).sum() == 4, "two rows and two columns reach the pixel"
    assert torch.equal(whole(image, (8, 8)).isnan(), image.isnan()), "a copy lets it spread nowhere"
    for start in ((0, 0), (2, 1), (1, 2)):
        region = Region(start, (2, 2))
        found = region_of(image, (4, 4), region, antialias=True, most=1)
        assert torch.equal(found.isnan(), smaller.isnan()[region.last_dims])


@pytest.mark.parametrize("factor", [2, 5, 17])
def test_only_the_pixels_around_a_region_are_read(factor):
    read: list[Region] = []
    image = picture((40 * factor, 60 * factor), bands=1)

    def source(region: Region) -> Tensor:
        read.append(region)
        return image[region.last_dims]

    region = Region((10, 20), (8, 6))
    grids = grids_of(tuple(image.shape[1:]), (40, 60))
    resized_region(source, grids, region)
    assert [one.size for one in read] == [(9 * factor - factor % 2, 7 * factor - factor % 2)]
    read.clear()
    resized_region(source, grids, region, most=40 * factor**2)
    assert len(read) > 1
    assert max(one.volume for one in read) <= 40 * factor**2


def test_a_window_begins_between_pixels():
    """A crop that is no part of a resized whole: pixel by pixel, by the definition."""
    image = picture((1, 30), bands=1, dtype=torch.float32)
    grid = Grid(30, step=2.6, start=3.3)
    found = resized_region(
        lambda source: image[source.last_dims], [Grid(1, 1.0), grid], Region((0, 0), (1, 9))
    )
    for pixel in range(9):
        centre = 3.3 + (pixel + 0.5) * 2.6
        weights = torch.tensor([max(0.0, 1 - abs(place + 0.5 - centre) / 2.6) for place in range(30)])
        expected = (image[0, 0] * weights).sum() / weights.sum()
        torch.testing.assert_close(found[0, 0, pixel], expected)


LEVELS = [(4000, 6000), (2000, 3000), (1000, 1500), (250, 375)]


@pytest.mark.parametrize(
    ("wanted", "level"),
    [((4000, 6000), 0), ((3999, 6000), 0), ((2001, 3001), 1), ((1999, 2999), 1), ((1010, 1510), 2), ((251, 376), 3),
     ((1020, 1500), 1), ((260, 400), 2), ((1, 1), 3), ((9000, 9000), 0)],
)  # fmt: skip
def test_the_coarsest_level_is_read_that_is_not_coarser(wanted, level):
    assert level_for(LEVELS, wanted) == level
