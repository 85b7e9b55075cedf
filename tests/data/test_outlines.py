"""Masks drawn from outlines, against pycocotools and a painting in plain numpy."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as reference
from pycocotools.coco import COCO

from support.datasets import open_masks, write_image
from ziggurat.data.extents import Region
from ziggurat.data.outlines import Outline, outline_fault, paint, run_lengths

H, W = 37, 53

# pycocotools is of before numpy 2; its masks are right
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)


def polygon(generator: np.random.Generator, corners: int) -> list[float]:
    xy = generator.random((corners, 2)) * (W, H)
    return [float(value) for value in np.round(xy, 2).ravel()]


def random_shapes(seed: int) -> list[Outline]:
    generator = np.random.default_rng(seed)
    blob = np.zeros((H, W), dtype=np.uint8)
    top, left = generator.integers(0, 20, 2)
    blob[top : top + 12, left : left + 15] = generator.random((12, 15)) < 0.7
    compressed = reference.encode(np.asfortranarray(blob))
    flat = blob.ravel(order="F").astype(int)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    counts = np.diff([0, *changes, H * W]).tolist()
    return [
        [polygon(generator, 3)],
        [polygon(generator, 7), polygon(generator, 4)],
        [[1.0, 1.0, 30.5, 1.0, 30.5, 20.0, 1.0, 20.0]],
        {"size": [H, W], "counts": compressed["counts"].decode()},
        {"size": [H, W], "counts": counts},
    ]


@pytest.mark.parametrize("seed", range(6))
def test_each_outline_is_as_pycocotools_draws_it(seed: int) -> None:
    coco = COCO()
    coco.imgs = {1: {"id": 1, "height": H, "width": W}}
    for shape in random_shapes(seed):
        assert outline_fault(shape, H, W) is None
        expected = coco.annToMask({"image_id": 1, "segmentation": shape})
        painted = paint([shape], np.array([7], np.uint8), np.array([False]), H, W)
        assert np.array_equal(painted.numpy(), expected * 7)


@pytest.mark.parametrize("seed", range(4))
def test_smaller_objects_lie_on_larger_ones_and_crowds_beneath(seed: int) -> None:
    coco = COCO()
    coco.imgs = {1: {"id": 1, "height": H, "width": W}}
    shapes = random_shapes(seed) + random_shapes(seed + 10)
    labels, crowd = np.arange(1, 11, dtype=np.uint8), np.arange(10) % 4 == 3
    masks = [coco.annToMask({"image_id": 1, "segmentation": shape}).astype(bool) for shape in shapes]
    expected = np.zeros((H, W), dtype=np.uint8)
    for y in range(H):
        for x in range(W):
            here = [(crowd[i], masks[i].sum(), -i) for i in range(10) if masks[i][y, x]]
            if here:
                is_crowd, _, i = min(here)
                expected[y, x] = 255 if is_crowd else labels[-i]
    assert np.array_equal(paint(shapes, labels, crowd, H, W).numpy(), expected)


@pytest.mark.parametrize("seed", range(4))
def test_a_window_is_that_of_the_whole_mask(seed: int) -> None:
    shapes = random_shapes(seed) + random_shapes(seed + 10)
    shapes += [[[-1, -1, W + 1, -1, W + 1, 5.5]], [[W - 3, H - 3, W + 1, H - 2, W - 2, H + 1]]]
    labels, crowd = np.arange(1, len(shapes) + 1, dtype=np.uint8), np.arange(len(shapes)) % 5 == 3
    whole = paint(shapes, labels, crowd, H, W)
    generator = np.random.default_rng(seed)
    for _ in range(20):
        top, left = (int(generator.integers(0, side)) for side in (H, W))
        size = int(generator.integers(1, H - top + 1)), int(generator.integers(1, W - left + 1))
        region = Region((top, left), size)
        assert paint(shapes, labels, crowd, H, W, region).equal(whole[region.slices])


@pytest.mark.parametrize("seed", range(3))
def test_windows_of_a_data_set_leave_no_outline_out(tmp_path, seed: int) -> None:
    write_image(tmp_path / "a.png", W, H)
    shapes = random_shapes(seed) + random_shapes(seed + 10) + [[[-1, -1, 9, -1, 9, 0.4]]]
    annotations = [
        {
            "id": n,
            "image_id": 3,
            "category_id": 1,
            "bbox": [0, 0, W, H],
            "iscrowd": int(n % 5 == 3),
            "segmentation": shape,
        }
        for n, shape in enumerate(shapes)
    ]
    images = [{"id": 3, "file_name": "a.png", "width": W, "height": H}]
    content = {"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": annotations}
    (tmp_path / "train.json").write_text(json.dumps(content))
    dataset: Any = open_masks(tmp_path / "train.json")
    whole = dataset.mask(0)
    assert {0, 1} <= set(whole.unique().tolist())
    for top, left in itertools.product(range(0, H, 5), range(0, W, 7)):
        region = Region((top, left), (min(5, H - top), min(7, W - left)))
        assert dataset.mask_window(0, region).equal(whole[region.slices])


def test_no_outline() -> None:
    mask = paint([], np.zeros(0, np.uint8), np.zeros(0, bool), 3, 4)
    assert mask.tolist() == [[0] * 4] * 3


@pytest.mark.parametrize(
    ("shape", "fault"),
    [
        ("x", "must be a list of polygons or an object"),
        ([], "no polygon"),
        ([[1, 2, 3, 4]], "three corners or more, x and y of each: got 4 numbers"),
        ([[1, 2, 3, 4, 5, 6, 7]], "got 7 numbers"),
        ([1, 2, 3, 4, 5, 6], "three corners or more, x and y of each: got 1"),
        ([[1, 2, 3, 4, 5, "6"]], "must have numbers: got '6'"),
        ([[1, 2, 3, 4, 5, True]], "must have numbers: got True"),
        ([[1, 2, 3, 4, 5, float("nan")]], "must have numbers: got nan"),
        ([[1, 2, 3, 4, 1e9, 6]], r"must lie in the image, which has 53 x 37 pixels: got x=1e\+09"),
        ([[1, -2, 3, 4, 5, 6]], "got y=-2"),
        ({"counts": [37 * 53]}, "size must be"),
        ({"size": [W, H], "counts": [H * W]}, r"size must be .* \[37, 53\]: got \[53, 37\]"),
        ({"size": [H, W], "counts": None}, "counts must be run lengths"),
        ({"size": [H, W], "counts": [-1, H * W + 1]}, "counts must be run lengths"),
        ({"size": [H, W], "counts": [1, 2]}, "must add up to the 1961 pixels of the image: got 3"),
        ({"size": [H, W], "counts": [10**12]}, "must add up"),
        ({"size": [H, W], "counts": "\x00"}, "counts must be run lengths"),
        ({"size": [H, W], "counts": "oooooooooooooooooooooo"}, "counts must be run lengths"),
        ({"size": [H, W], "counts": "52203"}, "must add up"),
    ],
)
def test_outlines_that_no_decoder_may_see(shape: object, fault: str) -> None:
    assert re.search(fault, outline_fault(shape, H, W) or "")


def test_a_pixel_beyond_the_edge_is_rounding() -> None:
    shape: Outline = [[-1, -1, W + 1, -1, W + 1, H + 1, -1, H + 1]]
    assert outline_fault(shape, H, W) is None
    assert reference.area(run_lengths(shape, H, W)) == H * W
