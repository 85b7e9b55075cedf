from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.datasets import CONFIG, annotation, coco, faults_of, opened, write_coco
from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.dataset import DetectionDataset
from ziggurat.data.digits import DigitScenes
from ziggurat.data.formats import find_faults
from ziggurat.errors import UserError
from ziggurat.tasks.opening import open_dataset

BIRD = [{"id": 1, "name": "bird"}, {"id": 2, "name": "dog"}]


def splits(folder: Path, **val: object) -> None:
    write_coco(folder, coco(annotation()), "train.json")
    write_coco(folder, coco(annotation(category_id=2), categories=BIRD, **val), "val.json")


def test_labels_are_those_of_the_training_classes(tmp_path: Path) -> None:
    splits(tmp_path)
    val = opened(tmp_path, "val")
    assert (val.classes, val.category_ids) == (("cat", "dog"), (1, 5))
    assert val.objects(0).labels.tolist() == [1], "dog, whatever its id is in val.json"


def test_a_class_that_training_does_not_know(tmp_path: Path) -> None:
    splits(tmp_path)
    write_coco(tmp_path, coco(annotation(category_id=1), categories=BIRD), "val.json")
    (fault,) = faults_of(tmp_path)
    assert (fault.id, fault.kind) == (1, "unknown category")
    with pytest.raises(UserError, match="'bird' is not a class of the training data; known: cat, dog"):
        opened(tmp_path, "val")


def test_labels_of_given_classes(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    dataset = opened(file, "val", classes=("dog", "bird"))
    assert (dataset.classes, dataset.category_ids) == (("dog", "bird"), (5, 2))
    assert dataset.objects(0).labels.tolist() == [0]
    with pytest.raises(UserError, match="'dog' is not a class of the training data"):
        opened(file, "val", classes=("cat", "bird"))


def test_a_split_without_boxes_is_no_training_data(tmp_path: Path) -> None:
    write_coco(tmp_path, coco(), "train.json")
    write_coco(tmp_path, coco(), "val.json")
    with pytest.raises(UserError, match="there is no box in any image"):
        opened(tmp_path)
    assert len(opened(tmp_path, "val").objects(0)) == 0


@pytest.mark.parametrize("range", ["", "-1,1"])
def test_images_without_a_natural_range_are_found_by_the_check(tmp_path: Path, range: str) -> None:
    write_coco(tmp_path, coco(annotation(), images=[{"id": 3, "file_name": "a.tif"}]))
    Image.fromarray(np.full((30, 40), 0.5, dtype=np.float32)).save(tmp_path / "a.tif")
    config = DataConfig(range=range, bands="rgb")
    faults, _ = find_faults(str(tmp_path), config)
    if range:
        assert not faults
        dataset = open_dataset(str(tmp_path), "train", "detect", config, DigitsConfig())
        assert dataset is not None
        assert (dataset.image(0) == 191).all()
    else:
        assert [(fault.kind, "--set data.range=" in fault.fault) for fault in faults] == [
            ("undecodable image", True)
        ]
        with pytest.raises(UserError, match=r"data\.range"):
            open_dataset(str(tmp_path), "train", "detect", config, DigitsConfig())


def test_images_larger_than_the_bound(tmp_path: Path) -> None:
    content = coco(annotation(), images=[{"id": 3, "file_name": "a.png"}])
    file = write_coco(tmp_path, content)
    with pytest.raises(UserError, match=r"a\.png has 1200 pixels.*data\.max_pixels=100"):
        open_dataset(str(file), "train", "detect", DataConfig(max_pixels=100), DigitsConfig())


def test_summary(tmp_path: Path) -> None:
    splits(tmp_path)
    faults, summary = find_faults(str(tmp_path), CONFIG)
    assert not faults
    assert (summary.format, summary.images, summary.annotations) == ("coco", 4, 2)
    assert summary.splits == {
        "train": {"images": 2, "annotations": 1},
        "val": {"images": 2, "annotations": 1},
    }
    assert summary.classes == ("cat", "dog")


def test_many_images_are_checked_by_several_processes(tmp_path: Path) -> None:
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(70)]
    file = write_coco(tmp_path, coco(annotation(), images=images))
    for number in range(70):
        (tmp_path / f"{number}.png").write_bytes((tmp_path / "a.png").read_bytes() if number != 41 else b"x")
    assert [(fault.id, fault.kind) for fault in faults_of(file)] == [(41, "undecodable image")]


def test_the_embedded_data_set() -> None:
    dataset = open_dataset("digits", "val", "detect", CONFIG, DigitsConfig(val_scenes=7))
    assert isinstance(dataset, DigitScenes)
    assert len(dataset) == 7


def test_no_data_set_is_given() -> None:
    for attempt in (
        lambda: open_dataset("", "train", "detect", CONFIG, DigitsConfig()),
        lambda: find_faults("", CONFIG),
    ):
        with pytest.raises(UserError, match="no data set is given"):
            attempt()


def all_boxes(dataset: DetectionDataset, name: str) -> list[list[float]]:
    (index,) = [i for i in range(len(dataset)) if dataset.record(i).name == name or len(dataset) == 1]
    return sorted(dataset.objects(index).boxes_xyxy.tolist())


def test_trees_are_the_same_in_every_format(trees: Path) -> None:
    folder, coco_file, csv_file, voc_file = (
        opened(path, "val")
        for path in (trees, trees / "val.json", trees / "val.csv", trees / "florida.voc.xml")
    )
    for name, count in (("florida.png", 61), ("yellowstone_b.png", 182)):
        boxes = all_boxes(coco_file, name)
        assert len(boxes) == count
        assert all_boxes(folder, name) == all_boxes(csv_file, name) == boxes
    assert all_boxes(voc_file, "florida.png") == all_boxes(coco_file, "florida.png")
    assert voc_file.path(0) == trees / "val" / "florida.png"
    train = json.loads((trees / "train.json").read_text())
    opened_train = opened(trees)
    assert sum(len(opened_train.objects(i)) for i in range(2)) == len(train["annotations"]) == 429


def test_trees_have_no_faults(trees: Path) -> None:
    assert faults_of(trees) == []
