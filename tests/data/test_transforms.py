"""Boxes are checked against pixels: an object is painted, and found again where its box says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional

from ziggurat.config import DataConfig
from ziggurat.data.batch import Objects
from ziggurat.data.extents import Region
from ziggurat.data.transforms import (
    Augmentation,
    Window,
    augment_image,
    augment_objects,
    draw_augmentation,
    resize_factors,
)

WHOLE = Augmentation(Window(Region((0, 0), (8, 8)), Region((0, 0), (8, 8))), False, False, 0, 1.0, 1.0, 1.0)


def objects(*boxes: list[float]) -> Objects:
    return Objects(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(len(boxes), dtype=torch.int64)
    )


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_nothing_random_is_the_image_itself() -> None:
    image = torch.arange(192, dtype=torch.uint8).reshape(3, 8, 8)
    crop = augment_image(image, WHOLE, 8)
    assert torch.equal(crop, image)
    assert crop.data_ptr() != image.data_ptr()


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("upside_down", [False, True])
@pytest.mark.parametrize("quarter_turns", range(4))
def test_boxes_follow_the_pixels(mirror: bool, upside_down: bool, quarter_turns: int) -> None:
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[:, 1:3, 2:7] = 255
    moved = replace(WHOLE, mirror=mirror, upside_down=upside_down, quarter_turns=quarter_turns)
    crop = augment_image(image, moved, 8)
    (box,) = augment_objects(objects([2, 1, 7, 3]), moved, 8, 0.25).boxes_xyxy.tolist()
    x1, y1, x2, y2 = map(int, box)
    expected = torch.zeros_like(image)
    expected[:, y1:y2, x1:x2] = 255
    assert torch.equal(crop, expected)


@given(
    extent=st.lists(st.integers(1, 60), min_size=1, max_size=3).map(tuple),
    crop=st.integers(4, 40),
    seed=st.integers(0, 1000),
    resize=st.sampled_from([0, 8, 50]),
)
def test_window_lies_in_the_image_and_in_the_crop(
    extent: tuple[int, ...], crop: int, seed: int, resize: int
) -> None:
    config = replace(DataConfig(), crop=crop, resize=resize, resize_limit=80, scale_min=0.5, scale_max=2.0)
    window = draw_augmentation(generator(seed), extent, config).window
    assert min(*window.source.size, *window.target.size) >= 1
    assert window.source.intersection(Region.whole(extent)) == window.source
    assert window.target.intersection(Region.whole((crop,) * len(extent))) == window.target


def test_a_window_at_another_scale_is_the_resized_crop() -> None:
    image = torch.from_numpy(generator().integers(0, 256, (3, 40, 50), dtype=np.uint8))
    moved = replace(WHOLE, window=Window(Region((10, 5), (16, 16)), Region((0, 0), (8, 8))))
    expected = functional.resize(image[:, 10:26, 5:21], [8, 8], antialias=True)
    assert torch.equal(augment_image(image, moved, 8), expected)
    boxes = augment_objects(objects([7, 12, 11, 20]), moved, 8, 0.25).boxes_xyxy
    assert boxes.tolist() == [[1, 1, 3, 5]]


def test_a_small_image_is_padded_with_zeros_even_when_it_gets_brighter() -> None:
    image = torch.full((3, 4, 2), 100, dtype=torch.uint8)
    window = Window(Region((0, 0), (4, 2)), Region((3, 5), (4, 2)))
    crop = augment_image(
        image, replace(WHOLE, window=window, brightness=2.0, contrast=0.5, saturation=0.5), 8
    )
    assert ((crop[:, 3:7, 5:7].int() - 200).abs() <= 2).all()  # each step rounds
    crop[:, 3:7, 5:7] = 0
    assert not crop.any()
    boxes = augment_objects(objects([0, 1, 2, 3]), replace(WHOLE, window=window), 8, 0.25).boxes_xyxy
    assert boxes.tolist() == [[5, 4, 7, 6]]


def test_boxes_that_are_mostly_cut_off_are_left_out() -> None:
    moved = replace(WHOLE, window=Window(Region((10, 10), (8, 8)), Region((0, 0), (8, 8))))
    found = augment_objects(
        objects([8, 10, 12, 14], [7, 10, 11, 14], [0, 0, 9, 9], [0, 0, 40, 40], [12, 12, 14, 15]),
        moved,
        8,
        0.3,
    )
    # visible shares: 1/2, 1/4, none, 1/25, all
    assert found.labels.tolist() == [0, 4]
    assert found.boxes_xyxy.tolist() == [[0, 0, 2, 4], [2, 2, 4, 5]]


def test_boxes_never_lose_all_area() -> None:
    moved = replace(WHOLE, window=Window(Region((10, 10), (8, 8)), Region((0, 0), (8, 8))))
    assert len(augment_objects(objects([0, 0, 10, 20]), moved, 8, min_visible=0.0)) == 0


def test_no_objects() -> None:
    found = augment_objects(objects(), WHOLE, 8, 0.25)
    assert found.boxes_xyxy.shape == (0, 4)


def test_contrast_is_torchvisions_up_to_rounding() -> None:
    image = torch.from_numpy(generator().integers(0, 256, (3, 8, 8), dtype=np.uint8))
    ours = augment_image(image, replace(WHOLE, contrast=0.6), 8).int()
    assert (ours - functional.adjust_contrast(image, 0.6).int()).abs().max() <= 1


def test_positions_are_uniform_and_reach_the_borders() -> None:
    config = replace(DataConfig(), crop=10, scale_min=1.0, scale_max=1.0)
    one = generator()
    tops = [draw_augmentation(one, (14, 40), config).window.source.top for _ in range(1000)]
    counts = np.bincount(tops, minlength=5)
    assert len(counts) == 5
    assert counts.min() > 150


def test_settings_leave_other_choices_alone() -> None:
    plain = draw_augmentation(generator(), (900, 900), replace(DataConfig(), flip="none"))
    more = replace(DataConfig(), flip="both", quarter_turns=True, color_jitter=0.5)
    assert draw_augmentation(generator(), (900, 900), more).window == plain.window
    assert (plain.mirror, plain.upside_down, plain.quarter_turns, plain.contrast) == (False, False, 0, 1.0)


def test_every_move_is_drawn() -> None:
    config = replace(DataConfig(), flip="both", quarter_turns=True, color_jitter=0.5)
    one = generator()
    drawn = [draw_augmentation(one, (600, 600), config) for _ in range(200)]
    assert {(a.mirror, a.upside_down, a.quarter_turns) for a in drawn} == {
        (m, u, q) for m in (False, True) for u in (False, True) for q in range(4)
    }
    values = np.array([[a.brightness, a.contrast, a.saturation] for a in drawn])
    assert values.min() >= 0.5
    assert values.max() <= 1.5


@pytest.mark.parametrize(
    ("size", "resize", "limit", "expected"),
    [((400, 300), 600, 10_000, 2.0), ((400, 300), 600, 400, 1.0), ((2000, 1000), 800, 1333, 0.6665)],
)
def test_resize_factors(size: tuple[int, int], resize: int, limit: int, expected: float) -> None:
    config = DataConfig(resize=resize, resize_limit=limit)
    assert resize_factors(size, config) == pytest.approx((expected, expected))
