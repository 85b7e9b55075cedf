from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ziggurat.config import DigitsConfig
from ziggurat.data import digits as digits_module
from ziggurat.data.digits import DigitScenes, draw_scene
from ziggurat.data.glyphs import digit_pixels, make_glyph
from ziggurat.system.forking import fork_context

CONFIG = DigitsConfig()


def scenes(split: str = "train", **settings: int) -> DigitScenes:
    return DigitScenes(replace(CONFIG, **settings), split)  # type: ignore[arg-type] # train or val


def test_a_scene_is_what_its_record_says() -> None:
    dataset = scenes()
    assert len(dataset) == 2000
    assert len(scenes("val")) == 200
    record = dataset.record(7)
    assert (record.image_id, record.height, record.width) == (8, 128, 128)
    image, objects = dataset.image(7), dataset.objects(7)
    assert (image.dtype, image.shape) == (torch.uint8, (3, 128, 128))
    assert objects.boxes_xyxy.dtype == torch.float32
    assert objects.labels.dtype == torch.int64
    with pytest.raises(IndexError, match="there are 2000 scenes"):
        dataset.image(2000)


def test_boxes_are_tight_around_the_visible_ink() -> None:
    dataset = scenes()
    for index in range(40):
        masks, boxes = dataset.masks(index), dataset.objects(index).boxes_xyxy
        assert masks.dtype == torch.uint8
        assert masks.sum(dim=0).max() <= 1, "a pixel is visible in one digit only"
        for mask, box in zip(masks, boxes, strict=True):
            rows, columns = mask.nonzero().unbind(1)
            x1, y1, x2, y2 = box.tolist()
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x1, y1, x2, y2)


def test_counts_and_heights_cover_their_ranges() -> None:
    dataset = scenes()
    boxes = [dataset.objects(index).boxes_xyxy for index in range(300)]
    assert {len(b) for b in boxes} == {2, 3, 4, 5}
    heights = torch.cat([b[:, 3] - b[:, 1] for b in boxes])
    assert 10 <= heights.min() <= 14
    assert 58 <= heights.max() <= 66
    assert heights.max() / heights.min() >= 5
    spread = [float((b[:, 3] - b[:, 1]).max() / (b[:, 3] - b[:, 1]).min()) for b in boxes if len(b) == 5]
    assert np.mean(spread) > 2.5, "one scene has small and large digits"


def test_digits_overlap_a_little() -> None:
    dataset = scenes()
    overlapping = 0
    for index in range(100):
        boxes = dataset.objects(index).boxes_xyxy
        low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        common = (high - low).clamp(min=0).prod(dim=2).fill_diagonal_(0)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
        share = common / torch.minimum(areas[:, None], areas[None])
        overlapping += bool((share > 0).any())
        assert share.max() <= 0.16
    assert overlapping > 5


def test_ink_stands_out_from_what_surrounds_it() -> None:
    dataset = scenes()
    for index in range(30):
        grey = dataset.image(index).float().mean(dim=0)
        for mask in dataset.masks(index).bool():
            around = torch.nn.functional.max_pool2d(mask[None].float(), 7, 1, 3)[0].bool() & ~mask
            assert (grey[mask].mean() - grey[around].mean()).abs() > 12


def test_a_scene_depends_on_seed_split_and_index_only() -> None:
    expected = [draw_scene(CONFIG, "train", index) for index in range(6)]
    dataset = scenes()
    for index in (5, 0, 3, 3, 1):
        assert torch.equal(dataset.image(index), expected[index].image_CHW)
        assert torch.equal(dataset.objects(index).boxes_xyxy, expected[index].objects.boxes_xyxy)
        assert torch.equal(dataset.masks(index), expected[index].masks)
    assert not torch.equal(scenes(seed=1).image(0), expected[0].image_CHW)
    assert not torch.equal(scenes("val").image(0), expected[0].image_CHW)


def _image_bytes(index: int) -> bytes:
    return scenes().image(index).numpy().tobytes()


def test_the_same_bits_in_another_process() -> None:
    with fork_context().Pool(1) as pool:
        other = pool.apply(_image_bytes, (4,))
        pool.close()
        pool.join()
    assert other == _image_bytes(4)


def test_splits_share_no_digit_and_no_place() -> None:
    train, val = digits_module._handwriting("train"), digits_module._handwriting("val")
    assert sorted([*train, *val]) == list(range(1797))
    assert set(np.unique(digit_pixels().labels[val])) == set(range(10))
    for left, right in zip(digits_module._places("train"), digits_module._places("val"), strict=True):
        assert left.width + right.width == 640


def test_the_pixels_are_scikit_learns() -> None:
    # in a process of its own: importing scikit-learn changes the environment
    program = """
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from ziggurat.data.digits import _places
from ziggurat.data.glyphs import digit_pixels
pixels = digit_pixels()
bunch = load_digits()
assert (pixels.labels == bunch.target).all()
ours = np.stack([np.asarray(image)[2:10, 2:10] for image in pixels.images])
assert np.array_equal(ours * 16, bunch.images)
whole = np.concatenate([np.asarray(_places("train")[0]), np.asarray(_places("val")[0])], axis=1)
assert np.array_equal(whole, load_sample_image("china.jpg"))
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_no_more_digits_than_fit() -> None:
    crowded = replace(CONFIG, size=32, count_min=12, count_max=12, height_min=16, height_max=30)
    for index in range(5):
        scene = draw_scene(crowded, "train", index)
        assert 1 <= len(scene.objects) <= 12
        assert (scene.masks.flatten(1).sum(dim=1) > 0).all()


def test_a_scene_without_digits() -> None:
    scene = draw_scene(replace(CONFIG, count_min=0, count_max=0), "train", 0)
    assert scene.objects.boxes_xyxy.shape == (0, 4)
    assert scene.masks.shape == (0, 128, 128)


@pytest.mark.parametrize("size", [48, 300, 1024])
def test_scenes_of_other_sizes(size: int) -> None:
    scene = draw_scene(replace(CONFIG, size=size, height_min=10, height_max=size // 2), "val", 0)
    assert scene.image_CHW.shape == (3, size, size)
    assert (scene.objects.boxes_xyxy[:, 2:] <= size).all()


@pytest.mark.parametrize("height", [8.0, 20.0, 200.0])
@pytest.mark.parametrize("angle", [-0.3, 0.0, 0.3])
def test_stamps_have_the_height_that_was_asked_for(height: float, angle: float) -> None:
    for number in range(20):
        glyph = make_glyph(number, height, angle, shear=0.2)
        assert abs(glyph.height - height) <= 1.5 + 0.04 * height
        edges = (glyph.ink[0], glyph.ink[-1], glyph.ink[:, 0], glyph.ink[:, -1])
        assert all(edge.any() for edge in edges)


def test_an_upright_stamp_is_the_resized_digit() -> None:
    glyph = make_glyph(0, 60.0, 0.0, 0.0)
    whole = np.asarray(digit_pixels().images[0].resize((120, 120), Image.Resampling.BICUBIC))
    rows, columns = np.nonzero(whole >= 0.45)
    tight = whole[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] >= 0.45
    resized = np.asarray(Image.fromarray(glyph.ink * 255).resize(tight.shape[::-1])) > 127
    assert (resized == tight).mean() > 0.94
