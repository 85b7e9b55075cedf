"""Steps of images of like aspect ratio: the order of samples, the shape of crops, and that crops show what they would show else."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.datasets import Sized
from ziggurat.config import DataConfig, RunConfig, override, range_faults
from ziggurat.data.aspect_groups import (
    MULTIPLE,
    Pixels,
    bounds,
    canvas_of,
    count_pixels,
    crop_of,
    group_of,
    smallest_side,
)
from ziggurat.data.batch import Objects, Part, SampleId
from ziggurat.data.crop_sizes import CropShape
from ziggurat.data.extents import Region, cut_out
from ziggurat.data.rare_crops import RareCrops
from ziggurat.data.sampler import Sampler, grouped_order
from ziggurat.data.samples import TrainingSamples
from ziggurat.tasks.detection.targets import ObjectKind
from ziggurat.tasks.segmentation.targets import MaskKind

CONFIG = DataConfig(crop=96, aspect_grouping=2, scale_min=0.7, scale_max=1.3, flip="both", color_jitter=0.3)


class Photographs(Sized):
    """Images of given sizes, with one object and a mask each, in colours of their own."""

    classes = ("a", "b")
    category_ids = (1, 2)

    def image(self, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(index)
        return torch.randint(1, 256, (3, *self.sizes[index]), generator=generator, dtype=torch.uint8)

    def objects(self, index: int) -> Objects:
        height, width = self.sizes[index]
        return Objects(torch.tensor([[1.0, 2.0, width / 2, height - 1.0]]), torch.tensor([index % 2]))

    def mask(self, index: int) -> torch.Tensor:
        return self.image(index)[0] % 2


SIZES = ((40, 90), (90, 40), (64, 64), (30, 80), (300, 50), (200, 240))


def samples(kind, **more):
    return TrainingSamples(Photographs(*SIZES), kind, replace(CONFIG, **more), seed=3)


groups = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(np.array)


@given(groups, st.integers(1, 20), st.integers(0, 99))
def test_batches_are_of_one_group_but_where_one_ends(of_sample, batch, seed):
    order = grouped_order(of_sample, batch, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(of_sample)))
    batches = [set(of_sample[order[start : start + batch]]) for start in range(0, len(order), batch)]
    boundaries = sum(len(one) - 1 for one in batches)
    assert boundaries <= 2 * (len(set(of_sample.tolist())) - 1), (
        "each boundary lies in a batch, or in it and in the last one"
    )
    mixed = sum(len(one) > 1 for one in batches)
    assert mixed <= len(set(of_sample.tolist()))


@given(groups, st.integers(1, 9), st.integers(0, 9))
def test_an_epoch_has_each_sample_once_in_as_many_steps(of_sample, batch, seed):
    plain, grouped = (Sampler(len(of_sample), batch, seed, groups=one) for one in (None, of_sample))
    assert plain.num_steps(2) == grouped.num_steps(2)
    for epoch in range(2):
        steps = range(plain.num_steps(epoch), plain.num_steps(epoch + 1))
        for sampler in (plain, grouped):
            assert sorted(id.sample for step in steps for id in sampler.batch(step)) == list(
                range(len(of_sample))
            )
        assert [len(plain.batch(step)) for step in steps] == [len(grouped.batch(step)) for step in steps]
    later = Sampler(len(of_sample), batch, seed, groups=of_sample)
    last = plain.num_steps(2) - 1
    assert later.batch(last) == grouped.batch(last), "whatever was asked for before"


def test_repeats_are_grouped_too():
    of_sample, factors = np.array([0, 1, 0, 1]), [3.0, 2.0, 1.0, 1.0]
    sampler = Sampler(4, 2, 0, factors, of_sample)
    ids = [id for step in range(sampler.num_steps(1)) for id in sampler.batch(step)]
    assert sorted((id.sample, id.repeat) for id in ids) == [
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (3, 0)
    ]  # fmt: skip


def test_the_last_batch_is_of_any_group():
    of_sample = np.repeat([0, 1, 2], 21)
    sampler = Sampler(63, 4, 1, groups=of_sample)
    ends = [sampler.num_steps(epoch + 1) - 1 for epoch in range(40)]
    assert {of_sample[sampler.batch(step)[0].sample] for step in ends} == {0, 1, 2}
    orders = [[of_sample[id.sample] for id in sampler.batch(step)[:1]] for step in range(15)]
    assert orders != sorted(orders), "groups do not follow each other"


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 6))
def test_groups_are_those_of_torchvision(height, width, factor):
    """``group_by_aspect_ratio.py``: ``bins = 2 ** np.linspace(-1, 1, 2 * k + 1)``, ``bisect.bisect_right(bins, width / height)``."""
    edges = (2 ** np.linspace(-1, 1, 2 * factor + 1)).tolist()
    assert bounds(factor) == pytest.approx(edges)
    if min(abs(edge - width / height) for edge in edges) > 1e-9:
        found = group_of((height, width), DataConfig(crop=400, aspect_grouping=factor))
        assert found == bisect_right(edges, width / height)


@pytest.mark.parametrize("side", [96, 64])
@pytest.mark.parametrize("kind", [ObjectKind(), MaskKind()])
def test_a_crop_shows_what_a_square_one_does(kind, side):
    """Where nothing is enlarged: the same pixels, in as many rows and columns; boxes and labels move with them."""
    made = samples(kind, scale_max=1.0)
    square = made.at(CropShape(side))
    for epoch in range(12):
        ids = [SampleId(epoch, number) for number in (0, 3)]
        canvas = canvas_of(square, ids)
        assert all(length <= side for length in canvas)
        assert all(length % MULTIPLE == 0 or length == side for length in canvas)
        assert canvas[0] < side
        for id in ids:
            whole, part = square.sample(id), made.at(CropShape(side, canvas)).sample(id)
            assert tuple(part.image_CHW.shape[1:]) == canvas
            places = [one.image_CHW.amax(0).nonzero() for one in (whole, part)]
            boxes = [(place.amin(0), place.amax(0) + 1) for place in places]
            (low, high), (its_low, its_high) = boxes
            assert torch.equal(high - low, its_high - its_low)
            seen = whole.image_CHW[:, low[0] : high[0], low[1] : high[1]]
            assert torch.equal(seen, part.image_CHW[:, its_low[0] : its_high[0], its_low[1] : its_high[1]])
            assert tuple((high - low).tolist()) == square.shown_extent(id)
            if isinstance(kind, ObjectKind):
                moved = (its_low - low).flip(0).repeat(2)
                torch.testing.assert_close(part.target.boxes_xyxy, whole.target.boxes_xyxy + moved)
            else:
                assert torch.equal(
                    whole.target[low[0] : high[0], low[1] : high[1]],
                    part.target[its_low[0] : its_high[0], its_low[1] : its_high[1]],
                )


def test_a_part_of_a_crop_is_that_of_the_whole():
    made = samples(MaskKind(), color_jitter=0.0, scale_min=1.0, scale_max=1.0, cache_bytes=0)
    shape = CropShape(96, (64, 96))
    part = Part(shape.extent, Region((20, 0), (30, 96)), Region((30, 0), (20, 96)))
    band = TrainingSamples(made.dataset, MaskKind(), made.config, 3, part_of=lambda extent: part)
    for epoch in range(8):
        whole, own = (one.at(shape).sample(SampleId(epoch, epoch % 4)) for one in (made, band))
        assert torch.equal(cut_out(whole.image_CHW, part.tile), own.image_CHW)
        assert torch.equal(whole.target[30:50], own.target)


def test_large_images_fill_a_square_and_rare_classes_are_placed_as_without():
    made = samples(ObjectKind(), scale_min=1.0, scale_max=1.0)
    ids = [SampleId(0, len(made) - 1)]
    assert canvas_of(made, ids) == (96, 96)
    assert count_pixels(made, CropShape(96), ids) == Pixels(96 * 96, 96 * 96)
    made.rare = RareCrops(1.0, np.ones(2), 3)
    tall = SampleId(0, 4)  # of 300 rows
    assert made.image_index(4) == 4
    canvas = canvas_of(made, [tall])
    assert canvas == (96, 64)
    square, own = (one.sample(tall).target.labels for one in (made, made.at(CropShape(96, canvas))))
    assert square.tolist() == own.tolist()


def test_pixels_are_counted():
    made = samples(ObjectKind(), scale_min=1.0, scale_max=1.0)
    ids = [SampleId(0, number) for number in (0, 3)]  # 40 x 90 and 30 x 80
    shown = 40 * 90 + 30 * 80
    assert count_pixels(made, CropShape(96), ids) == Pixels(shown, 2 * 96 * 96)
    assert count_pixels(made, CropShape(96, canvas_of(made, ids)), ids) == Pixels(shown, 2 * 64 * 96)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_is_enlarged_is_cut_along_both_dims(number):
    """By 1.5, an image of which 1 / 1.5 of the rows and columns is shown; in a square all of the shorter dim may be."""
    config = replace(CONFIG, scale_min=1.5, scale_max=1.5, crop=150)
    assert crop_of((60, 100), config) == (90, 150)
    made = samples(ObjectKind(), scale_min=1.0, scale_max=1.5)
    shape = CropShape(96, canvas_of(made, [SampleId(0, number)]))
    rows, columns = SIZES[number]
    for epoch in range(20):
        id = SampleId(epoch, number)
        square, own = (made.at(one).shown_extent(id) for one in (CropShape(96), shape))
        assert own == tuple(map(min, square, shape.extent))
        assert shape.extent[0] < rows + MULTIPLE
        assert shape.extent[1] < columns + MULTIPLE


def test_turned_images_are_refused():
    (fault,) = range_faults(override(RunConfig(), {"data.aspect_grouping": 3, "data.quarter_turns": True}))
    assert fault == (
        "data.aspect_grouping=3 needs images that stay as wide and high as they are: got data.quarter_turns=true; leave one out"
    )


def test_the_smallest_side_is_that_of_the_narrowest_image():
    narrow = replace(CONFIG, scale_min=1.0, scale_max=1.0)
    assert smallest_side(Photographs(*SIZES), narrow) == 32
    assert smallest_side(Photographs((64, 64), (70, 90)), narrow) == 64
    assert smallest_side(Photographs((300, 300)), narrow) == 96
    assert smallest_side(Photographs((64, 64)), replace(narrow, crops="48,96")) == 32, "scaled along"
    assert smallest_side(Photographs((1, 1)), replace(narrow, aspect_grouping=0)) == 96
