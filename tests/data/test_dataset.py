from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ziggurat.data.file_dataset import Boxes, FileDataset, FileList
from ziggurat.data.image_cache import ImageCache
from ziggurat.data.packed_strings import PackedStrings
from ziggurat.errors import UserError


def two_images(folder: Path) -> FileDataset:
    paths = [folder / "a.png", folder / "b.png"]
    for path in paths:
        Image.new("RGB", (30, 20), (1, 2, 3)).save(path)
    boxes = Boxes(
        ends=np.array([0, 3, 3]),
        xyxy=np.array([[0, 0, 5, 5], [1, 1, 20, 20], [2, 2, 4, 8]], dtype=np.float32),
        labels=np.array([1, 0, 1]),
        areas=np.array([25, 100, 12], dtype=np.float32),
        crowd=np.array([False, True, False]),
    )
    sizes = np.array([[20, 30], [20, 31]])
    return FileDataset(
        ("x", "y"),
        (3, 7),
        FileList(
            PackedStrings(["a.png", "b.png"]),
            PackedStrings([str(p) for p in paths]),
            np.array([5, 9]),
            sizes,
            10_000,
        ),
        boxes,
    )


def test_crowds_are_left_out_of_the_objects(tmp_path: Path) -> None:
    dataset = two_images(tmp_path)
    assert dataset.objects(0).boxes_xyxy.tolist() == [[0, 0, 5, 5], [2, 2, 4, 8]]
    assert dataset.objects(0).labels.tolist() == [1, 1]
    assert len(dataset.all_objects(0)) == 3
    assert dataset.crowd(0).tolist() == [False, True, False]
    assert dataset.areas(0).tolist() == [25, 100, 12]


def test_image_without_objects(tmp_path: Path) -> None:
    objects = two_images(tmp_path).objects(1)
    assert objects.boxes_xyxy.shape == (0, 4)
    assert objects.labels.dtype == torch.int64


def test_record_and_image(tmp_path: Path) -> None:
    dataset = two_images(tmp_path)
    record = dataset.record(0)
    assert (record.name, record.image_id, record.height, record.width) == ("a.png", 5, 20, 30)
    assert dataset.image(0)[:, 0, 0].tolist() == [1, 2, 3]


def test_image_of_another_size_than_its_annotations(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"b\.png has 30 x 20 pixels, its annotations say 31 x 20"):
        two_images(tmp_path).image(1)


def test_cache_keeps_the_images_used_last() -> None:
    loaded: list[int] = []

    def load(index: int) -> torch.Tensor:
        loaded.append(index)
        return torch.full((10,), index, dtype=torch.uint8)

    cache = ImageCache(load, max_bytes=25)
    for index in (0, 1, 0, 2, 0, 1):  # 2 pushes 1 out, as 0 was used later
        assert cache[index][0] == index
    assert loaded == [0, 1, 2, 1]
    assert cache.bytes == 20


def test_cache_does_not_keep_what_is_larger_than_itself() -> None:
    cache = ImageCache(lambda index: torch.zeros(100, dtype=torch.uint8), max_bytes=10)
    assert cache[0].numel() == 100
    assert cache.bytes == 0
