"""Image and mask move together: an image whose pixels are its labels is augmented beside its mask."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ziggurat.config import DataConfig
from ziggurat.data.batch import IGNORED_PIXEL
from ziggurat.data.extents import Region
from ziggurat.data.transforms import Augmentation, Window, augment_image, augment_mask, draw_augmentation

WHOLE = Augmentation(Window(Region((0, 0), (8, 8)), Region((0, 0), (8, 8))), False, False, 0, 1.0, 1.0, 1.0)
BLACK = 0  # of the canvas around an image; labels that are painted are above


def paint(mask_HW: Tensor) -> Tensor:
    """Return an image whose pixel values are its labels."""
    return mask_HW.expand(3, *mask_HW.shape).clone()


@pytest.mark.parametrize(
    ("mirror", "upside_down", "turns"), list(product([False, True], [False, True], range(4)))
)
def test_flips_and_turns(mirror: bool, upside_down: bool, turns: int) -> None:
    mask = torch.arange(64, dtype=torch.uint8).view(8, 8)
    moved = replace(WHOLE, mirror=mirror, upside_down=upside_down, quarter_turns=turns)
    assert torch.equal(augment_mask(mask, moved, 8), augment_image(paint(mask), moved, 8)[0])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10_000))
def test_crops_and_padding_without_scaling(height: int, width: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = torch.randint(1, 200, (height, width), dtype=torch.uint8)
    config = DataConfig(crop=16, scale_min=1, scale_max=1, flip="both", quarter_turns=True)
    augmentation = draw_augmentation(generator, (height, width), config)
    image, labels = augment_image(paint(mask), augmentation, 16)[0], augment_mask(mask, augmentation, 16)
    assert torch.equal(labels == IGNORED_PIXEL, image == BLACK)
    assert torch.equal(labels[labels != IGNORED_PIXEL], image[image != BLACK])


@settings(deadline=None, max_examples=60)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(0, 10_000), st.sampled_from([2, 3]))
def test_whole_factors_repeat_each_pixel(height: int, width: int, seed: int, factor: int) -> None:
    """Where an image is enlarged by a whole factor, a pixel becomes a square of its label, in its own place."""
    mask = torch.randint(1, 200, (height, width), dtype=torch.uint8)
    crop = factor * max(height, width) + 3
    window = Window(Region((0, 0), (height, width)), Region((1, 2), (factor * height, factor * width)))
    turns = seed % 4
    augmentation = Augmentation(window, bool(seed % 2), bool(seed % 3), turns, 1.0, 1.0, 1.0)
    enlarged = mask.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    placed = Window(Region.whole(tuple(enlarged.shape)), window.target)
    expected = augment_image(paint(enlarged), replace(augmentation, window=placed), crop)[0]
    labels = augment_mask(mask, augmentation, crop)
    assert torch.equal(labels.masked_fill(labels == IGNORED_PIXEL, BLACK), expected)


@settings(deadline=None, max_examples=40)
@given(st.integers(24, 90), st.integers(24, 90), st.integers(0, 10_000))
def test_at_any_scale_labels_agree_with_the_image_away_from_edges(height: int, width: int, seed: int) -> None:
    """Two halves, of label 50 and 150: the image is smooth between them and must agree beyond two pixels."""
    generator = np.random.default_rng(seed)
    mask = torch.full((height, width), 50, dtype=torch.uint8)
    mask[:, width // 2 :] = 150
    config = DataConfig(crop=48, scale_min=0.4, scale_max=2.5, flip="both", quarter_turns=True)
    augmentation = draw_augmentation(generator, (height, width), config)
    image = augment_image(paint(mask), augmentation, 48)[0]
    labels = augment_mask(mask, augmentation, 48)
    assert set(labels.unique().tolist()) <= {50, 150, IGNORED_PIXEL}
    assert torch.equal(labels == IGNORED_PIXEL, image == BLACK)
    unlike = (labels != IGNORED_PIXEL) & ((image.int() - labels.int()).abs() > 50)
    assert not unlike.any()  # the nearer half is nearer in value as well


def test_colors_of_the_image_leave_the_mask_alone() -> None:
    mask = torch.randint(0, 12, (8, 8), dtype=torch.uint8)
    before = mask.clone()
    recolored = replace(WHOLE, brightness=0.3, contrast=1.7, saturation=0.0)
    assert torch.equal(augment_mask(mask, recolored, 8), before)
    assert torch.equal(mask, before)


def test_ignored_pixels_stay_ignored() -> None:
    mask = torch.zeros(8, 8, dtype=torch.uint8)
    mask[2, 3] = IGNORED_PIXEL
    larger = replace(WHOLE, window=Window(Region((0, 0), (8, 8)), Region((0, 0), (16, 16))))
    assert int((augment_mask(mask, larger, 16) == IGNORED_PIXEL).sum()) == 4
