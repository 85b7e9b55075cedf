"""Which classes there are, and what is said where training and validation differ in them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from support.datasets import CONFIG, annotation, coco, corners, voc, write_coco, write_image, write_text
from ziggurat.commands.check import check
from ziggurat.config import DigitsConfig
from ziggurat.data.dataset import Dataset, notes_of
from ziggurat.errors import UserError
from ziggurat.tasks.opening import open_dataset

HEADER = "image_path,xmin,ymin,xmax,ymax,label"


def opened(folder: Path, split: str, task: str = "detect", **settings: str) -> Dataset:
    config = dataclasses.replace(CONFIG, **settings)
    dataset = open_dataset(str(folder), split, task, config, DigitsConfig())  # type: ignore[arg-type]  # a wrong value, or one of a table
    assert dataset is not None
    return dataset


def csv_set(folder: Path) -> None:
    write_image(folder / "a.png")
    write_text(folder / "train.csv", f"{HEADER}\na.png,1,2,3,4,square\n")
    write_text(folder / "val.csv", f"{HEADER}\na.png,1,2,3,4,square\na.png,5,2,9,4,bar\n")


def label_csv_set(folder: Path) -> None:
    write_image(folder / "a.png")
    write_text(folder / "train.csv", "image_path,label\na.png,square\n")
    write_text(folder / "val.csv", "image_path,label\na.png,bar\n")


def voc_set(folder: Path) -> None:
    for name, label in (("a", "square"), ("b", "bar")):
        write_image(folder / "JPEGImages" / f"{name}.png")
        content = voc((label, corners(1, 2, 11, 22)), filename=f"{name}.png")
        write_text(folder / "Annotations" / f"{name}.xml", content)
    write_text(folder / "ImageSets" / "Main" / "train.txt", "a\n")
    write_text(folder / "ImageSets" / "Main" / "val.txt", "b\n")


def labelme_set(folder: Path) -> None:
    for split, label in (("train", "square"), ("val", "bar")):
        write_image(folder / split / "a.png")
        shape = {"label": label, "shape_type": "rectangle", "points": [[1, 2], [11, 22]]}
        write_text(folder / split / "a.json", json.dumps({"shapes": [shape], "imagePath": "a.png"}))


SETS = {
    "csv": (csv_set, "detect"),
    "labels": (label_csv_set, "classify"),
    "voc": (voc_set, "detect"),
    "labelme": (labelme_set, "detect"),
}


@pytest.mark.parametrize("name", SETS)
def test_formats_that_declare_no_classes(tmp_path: Path, name: str) -> None:
    """The message names the setting, and with it both splits have the same labels."""
    write, task = SETS[name]
    write(tmp_path)
    with pytest.raises(UserError) as caught:
        opened(tmp_path, "val", task)
    remedy = "--set data.classes=square,bar"
    assert remedy in str(caught.value)
    assert not check(str(tmp_path), CONFIG)["ok"]
    train, val = (opened(tmp_path, split, task, classes="square,bar") for split in ("train", "val"))
    assert train.classes == val.classes == ("square", "bar")
    assert notes_of(train)[-1] == "1 of 2 classes have no example in the training data (bar)"
    assert check(str(tmp_path), dataclasses.replace(CONFIG, classes="square,bar"))["ok"]


def test_a_declared_class_without_an_example_is_named(tmp_path: Path) -> None:
    """The background of a segmentation is no such class."""
    write_coco(tmp_path, coco(annotation(segmentation=[[1, 1, 9, 1, 9, 9]])), "train.json")
    write_coco(tmp_path, coco(annotation(category_id=1)), "val.json")
    (note,) = notes_of(opened(tmp_path, "train"))
    assert note == "1 of 2 classes have no example in the training data (cat)"
    assert note in check(str(tmp_path), CONFIG)["notes"]
    assert not notes_of(opened(tmp_path, "val"))


def test_crowds_are_no_examples(tmp_path: Path) -> None:
    write_coco(tmp_path, coco(annotation(1), annotation(2, category_id=1, iscrowd=1)))
    assert "(cat)" in notes_of(opened(tmp_path, "train"))[0]


def test_the_order_of_labels_is_the_users(tmp_path: Path) -> None:
    write_coco(tmp_path, coco(annotation(category_id=5)))
    dataset = opened(tmp_path, "train", classes="dog, cat")
    assert (dataset.classes, dataset.category_ids) == (("dog", "cat"), (5, 1))
    assert dataset.objects(0).labels.tolist() == [0]  # type: ignore[attr-defined]  # a data set of this task has it


@pytest.mark.parametrize("text", ["square,square", "square,", ",", "square,,bar"])
def test_names_that_are_none(tmp_path: Path, text: str) -> None:
    csv_set(tmp_path)
    with pytest.raises(UserError, match=r"data\.classes must name each class once"):
        opened(tmp_path, "train", classes=text)


def test_a_class_that_the_user_has_not_named(tmp_path: Path) -> None:
    csv_set(tmp_path)
    with pytest.raises(UserError, match="'square' is not a class of the training data"):
        opened(tmp_path, "train", classes="bar,baz")
