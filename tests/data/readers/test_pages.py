"""A page of a file is an image wherever a path of an image is given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.formats.writing import write_dataset
from ziggurat.data.readers.image_files import expand_paths, inspect_images, picture_names
from ziggurat.data.readers.images import read_image
from ziggurat.data.readers.list_files import expand_lists
from ziggurat.errors import UserError
from ziggurat.tasks.opening import open_dataset

PAGES = np.random.default_rng(0).integers(0, 256, (5, 24, 32), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "stack.tif", PAGES, photometric="minisblack", metadata=None)
    return tmp_path


def assert_page(image: torch.Tensor, number: int) -> None:
    assert np.array_equal(image[0].numpy(), PAGES[number])


def test_paths_and_lists(folder: Path) -> None:
    named = [f"{folder}/images/stack.tif#{number}" for number in (3, 0)]
    found = expand_paths(named)
    assert [str(path) for path in found] == named
    for path, number in zip(found, (3, 0), strict=True):
        assert_page(read_image(path, 1 << 20), number)
    assert picture_names(found, [(24, 32)] * 2) == ["stack#3.png", "stack#0.png"]
    (folder / "list.txt").write_text("images/stack.tif#2\n")
    (listed,) = expand_paths(expand_lists([str(folder / "list.txt")]))
    assert_page(read_image(listed, 1 << 20), 2)
    with pytest.raises(UserError, match=r"there is no file or folder .*gone\.tif#2"):
        expand_paths([f"{folder}/gone.tif#2"])
    with pytest.raises(UserError, match="has no page 5: pages count from 0, and the last is 4"):
        inspect_images([folder / "images" / "stack.tif#5"], 1 << 20)
    with pytest.raises(
        UserError, match=r"5 pages or frames, of which one can be read: name one, such as stack\.tif#0"
    ):
        read_image(folder / "images" / "stack.tif", 1 << 20)


def coco(folder: Path) -> str:
    images = [{"id": n, "file_name": f"stack.tif#{n}", "width": 32, "height": 24} for n in (1, 4)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 9, 9], "area": 81} for n in (1, 4)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cell"}]}
    (folder / "train.json").write_text(json.dumps(content))
    return str(folder)


def csv(folder: Path) -> str:
    lines = [f"elsewhere/images/stack.tif#{n},1,2,9,9,cell" for n in (1, 4)]
    (folder / "train.csv").write_text("image_path,xmin,ymin,xmax,ymax,label\n" + "\n".join(lines) + "\n")
    return str(folder)


def yolo(folder: Path) -> str:
    (folder / "labels").mkdir()
    for number in (1, 4):
        (folder / "labels" / f"stack#{number}.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (folder / "train.txt").write_text("images/stack.tif#1\nimages/stack.tif#4\n")
    (folder / "data.yaml").write_text("train: train.txt\nval: train.txt\nnames: [cell]\n")
    return str(folder / "data.yaml")


@pytest.mark.parametrize("write", [coco, csv, yolo])
def test_annotations(folder: Path, write) -> None:
    dataset = open_dataset(write(folder), "train", "detect", DataConfig(), DigitsConfig())
    assert len(dataset) == 2
    for index, number in enumerate((1, 4)):
        assert_page(dataset.image(index), number)
        assert len(dataset.objects(index)) == 1
    (folder / "new").mkdir()
    write_dataset({"train": dataset}, folder / "new", "coco", "boxes")
    names = [
        image["file_name"] for image in json.loads((folder / "new" / "train.json").read_text())["images"]
    ]
    assert [Path(name).name for name in names] == ["stack_1.png", "stack_4.png"]
