"""Crops around rare classes: where they lie, how often classes are seen, against probabilities worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ziggurat.config import DataConfig
from ziggurat.data.balance import ClassCounts
from ziggurat.data.batch import Objects, Part, SampleId
from ziggurat.data.blocks import divide
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Region
from ziggurat.data.rare_crops import LocatesClasses, RareCrops, choose, count_crops
from ziggurat.data.regions import MaskRegions, ObjectRegions
from ziggurat.data.samples import TrainingSamples
from ziggurat.data.transforms import Focus, draw_augmentation
from ziggurat.tasks.classification.targets import LabelKind
from ziggurat.tasks.detection.targets import ObjectKind
from ziggurat.tasks.segmentation.targets import MaskKind

SIDE, CROP, DRAWS = 400, 50, 1500
CONFIG = DataConfig(crop=CROP, scale_min=1, scale_max=1, flip="none", min_visible=0.9, cache_bytes=1 << 24)
FREQUENT, RARE = (100, 120), (300, 310)  # y and x of 10 pixels a side


class Field:
    """One image with nine frequent objects on one place and a rare one elsewhere; as a mask, two squares."""

    classes = ("frequent", "rare")
    category_ids = (1, 2)

    def __len__(self) -> int:
        return 1

    def record(self, index: int) -> ImageRecord:
        return ImageRecord("field.png", 1, SIDE, SIDE)

    def image(self, index: int) -> torch.Tensor:
        return (
            torch.arange(SIDE * SIDE * 3, dtype=torch.int64)
            .remainder(251)
            .to(torch.uint8)
            .view(3, SIDE, SIDE)
        )

    def objects(self, index: int) -> Objects:
        boxes = [[x, y, x + 10, y + 10] for y, x in [FREQUENT] * 9 + [RARE]]
        return Objects(torch.tensor(boxes, dtype=torch.float32), torch.tensor([0] * 9 + [1]))

    def mask(self, index: int) -> torch.Tensor:
        mask = torch.full((SIDE, SIDE), 255, dtype=torch.uint8)
        for label, (y, x) in enumerate((FREQUENT, RARE)):
            mask[y : y + 10, x : x + 10] = label
        return mask


def samples(kind, probability, weights=(1.0, 3.0), dataset=None, seed=3, **more):
    rare = RareCrops(probability, np.array(weights), seed) if probability else None
    return TrainingSamples(dataset or Field(), kind, replace(CONFIG, **more), seed, rare=rare)


def seen(made, label):
    """Return in which share of the crops of a class it is seen."""
    ids = [SampleId(epoch, 0) for epoch in range(DRAWS)]
    return count_crops(made, made.kind, ids)[label] / DRAWS


def anywhere(least):
    """Return how likely a crop anywhere shows so many of ten rows and columns: of 351 places along each dim."""
    places = CROP + 10 - 2 * least + 1
    return (places / (SIDE - CROP + 1)) ** 2


def near(share, expected):
    """Whether a share of the draws is as far from the expected one as chance makes it, in 4 standard deviations."""
    return abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / DRAWS) + 1e-9


@pytest.mark.sampled(1)
@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_rare_objects_are_seen_as_often_as_computed(probability):
    """Of the crops that are placed three in four hold the rare object, as it weighs 3 : 1, and the others do not reach it."""
    made = samples(ObjectKind(), probability, min_visible=0.999)
    lies = anywhere(10)  # all of the box is in the crop
    assert near(seen(made, 1), probability * 0.75 + (1 - probability) * lies)
    assert near(seen(made, 0), probability * 0.25 + (1 - probability) * anywhere(10))


@pytest.mark.parametrize("probability", [0.0, 0.5])
def test_rare_pixels_are_seen_as_often_as_computed(probability):
    made = samples(MaskKind(), probability)
    assert near(seen(made, 1), probability * 0.75 + (1 - probability) * anywhere(1))


def test_classes_are_drawn_by_inverse_frequency():
    counts = ClassCounts.of([{0: 9, 1: 1}, {0: 6}], 3)
    assert counts.shares("repeat").tolist() == [1.0, 0.5, 0.0]
    assert counts.shares("repeat-instances") == pytest.approx([math.sqrt(15 / 16), math.sqrt(0.5 / 16), 0])
    drawn = np.random.default_rng(0).random(DRAWS)
    chosen = [choose([0, 1], np.array([1.0, 4.0]), one) for one in drawn]
    assert near(np.mean(chosen), 0.8)


def test_all_objects_of_a_class_and_all_pixels_are_as_likely():
    kind, mask, objects = MaskKind(), Field().mask(0), Field().objects(0)
    places = [kind.locate(mask, 1, (place + 0.5) / 100).start for place in range(100)]
    assert places == [(RARE[0] + y, RARE[1] + x) for y in range(10) for x in range(10)]
    boxes = torch.tensor([[0.5, 1.5, 3.2, 4.0], [7, 7, 7.2, 7.2]])
    both = Objects(boxes, torch.tensor([4, 4]))
    found = [ObjectKind().locate(both, 4, drawn) for drawn in (0.0, 0.49, 0.5, 0.999)]
    assert found == [Region((1, 0), (3, 4))] * 2 + [Region((7, 7), (1, 1))] * 2
    assert ObjectKind().labels(objects) == MaskKind().labels(mask) == [0, 1]
    assert not isinstance(LabelKind(), LocatesClasses)


sizes = st.integers(1, 300)


@given(st.tuples(sizes, sizes), st.data(), st.integers(1, 120), st.floats(0.3, 3), st.integers(0, 99))
def test_a_crop_holds_what_it_is_placed_around_or_lies_within(extent, data, crop, scale, seed):
    start = tuple(data.draw(st.integers(0, size - 1)) for size in extent)
    size = tuple(data.draw(st.integers(1, side - first)) for side, first in zip(extent, start, strict=True))
    region = Region(start, size)
    places = tuple(data.draw(st.floats(0, 1, exclude_max=True)) for _ in extent)
    config = DataConfig(crop=crop, scale_min=scale, scale_max=scale)
    plain, placed = (
        draw_augmentation(np.random.default_rng(seed), extent, config, None, focus)
        for focus in (None, Focus(region, places))
    )
    window, other = placed.window.source, plain.window.source
    assert window.size == other.size
    assert placed.window.target == plain.window.target
    assert replace(placed, window=plain.window) == plain, "all else is drawn as without"
    assert Region.whole(extent).intersection(window) == window
    for dim in range(2):
        inner, outer = (region, window) if region.size[dim] <= window.size[dim] else (window, region)
        assert outer.start[dim] <= inner.start[dim]
        assert inner.end[dim] <= outer.end[dim]


@pytest.mark.parametrize("kind", [ObjectKind(), MaskKind()])
def test_blocks_and_bands_of_a_crop_are_placed_alike(kind):
    """Each region of an image places crops in itself; a worker that has a band of them has that of the same crop."""
    division = divide([(SIDE, SIDE)], block=100, share=0.3, seed=1)
    regions = (ObjectRegions if isinstance(kind, ObjectKind) else MaskRegions)(
        Field(), division, "train", CONFIG
    )
    made = samples(kind, 1.0, dataset=regions)
    band = Part((CROP, CROP), Region((20, 0), (30, CROP)), Region((25, 0), (25, CROP)))
    of_band = TrainingSamples(regions, kind, CONFIG, 3, band, rare=made.rare)
    has = [
        index for index in range(len(made)) if kind.labels(made.kind.read(regions, made.image_index(index)))
    ]
    assert has
    for number in has:
        whole, part = (one.sample(SampleId(5, number)) for one in (made, of_band))
        assert kind.labels(whole.target), "the crop has what it was placed around"
        assert torch.equal(whole.image_CHW[:, 20:50], part.image_CHW)
        if isinstance(kind, MaskKind):
            assert torch.equal(whole.target[25:50], part.target)
    target = made.target(SampleId(5, has[0]))
    again = made.sample(SampleId(5, has[0])).target
    assert str(target) == str(again)


def test_an_image_without_objects_has_its_crops_anywhere():
    class Empty(Field):
        def objects(self, index: int) -> Objects:
            return Objects(torch.empty(0, 4), torch.empty(0, dtype=torch.int64))

    made = samples(ObjectKind(), 1.0, dataset=Empty())
    id = SampleId(0, 0)
    assert torch.equal(made.sample(id).image_CHW, made.anywhere().sample(id).image_CHW)
