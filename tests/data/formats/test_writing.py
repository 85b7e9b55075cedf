"""Every format that is written gives the same boxes, labels and masks when it is read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support import banded
from support.datasets import (
    CONFIG,
    annotation,
    coco,
    faults_of,
    open_labels,
    open_masks,
    opened,
    write_coco,
    write_image,
    write_mask,
    write_text,
)
from ziggurat.commands.convert import convert
from ziggurat.config import DigitsConfig
from ziggurat.data.dataset import ClassificationDataset, DetectionDataset, SegmentationDataset
from ziggurat.data.file_dataset import FileDataset
from ziggurat.data.formats import FORMATS, write_dataset
from ziggurat.data.formats.table import Split
from ziggurat.errors import UserError
from ziggurat.tasks.opening import open_dataset
from ziggurat.tasks.registry import tasks_of

DIGITS = DigitsConfig(size=64, height_max=30, train_scenes=5, val_scenes=3)
WRITTEN = {name: tasks_of(format.write) for name, format in FORMATS.items() if format.write}
DETECTION = [name for name, tasks in WRITTEN.items() if "detect" in tasks]
CLASSIFICATION = [name for name, tasks in WRITTEN.items() if "classify" in tasks]


def run(path: Path | str, out: Path, format: str) -> dict[str, Any]:
    return convert(str(path), out, format, CONFIG, DIGITS)


def boxes(dataset: DetectionDataset, tolerance: float = 1e-4) -> dict[str, Any]:
    """Class and corners of the boxes of each image, by the image's name."""
    return {
        Path(dataset.record(index).name).stem: sorted(
            (dataset.classes[label], [round(value / tolerance) * tolerance for value in box])
            for box, label in zip(
                dataset.objects(index).boxes_xyxy.tolist(),
                dataset.objects(index).labels.tolist(),
                strict=True,
            )
        )
        for index in range(len(dataset))
    }


def images(dataset: DetectionDataset | ClassificationDataset | SegmentationDataset) -> dict[str, bytes]:
    return {
        Path(dataset.record(index).name).stem: dataset.image(index).numpy().tobytes()
        for index in range(len(dataset))
    }


def source(folder: Path, format: str) -> Path:
    """Write a detection data set of two splits, with fractions, in a format."""
    start = folder / "start"
    for split, names in (("train", "ab"), ("val", "c")):
        pictures = [{"id": n + 7, "file_name": f"{name}.png"} for n, name in enumerate(names)]
        for name in names:
            write_image(start / split / f"{name}.png", 41, 30)
        found = [
            annotation(1, image_id=7, bbox=[1.3, 2.7, 10.1, 20.05]),
            annotation(2, image_id=7, category_id=1, bbox=[0, 0, 41, 30]),
            annotation(3, image_id=7, category_id=1, bbox=[7, 7, 3, 3]),
        ]
        (start / f"{split}.json").write_text(json.dumps(coco(*found, images=pictures)))
    if format == "coco":
        return start
    run(start, folder / "source", format)
    return folder / "source"


@pytest.mark.parametrize("written", DETECTION)
@pytest.mark.parametrize("read", DETECTION)
def test_boxes_are_the_same_in_every_format(tmp_path: Path, read: str, written: str) -> None:
    path = source(tmp_path, read)
    result = run(path, tmp_path / "out", written)
    assert (result["format"], result["task"], result["splits"]) == (written, "detect", {"train": 2, "val": 1})
    assert not faults_of(tmp_path / "out")
    for split in ("train", "val"):
        before, after = opened(path, split), opened(tmp_path / "out", split)  # type: ignore[arg-type] # both splits
        assert set(before.classes) == set(after.classes) == {"cat", "dog"}
        assert sum(map(len, boxes(before).values())) == 3
        assert boxes(before) == boxes(after)
        assert images(before) == images(after)


@pytest.mark.parametrize("format", ["coco", "csv", "voc"])
def test_boxes_keep_their_bits(tmp_path: Path, format: str) -> None:
    path = source(tmp_path, "coco")
    run(path, tmp_path / "out", format)
    assert opened(path).all_objects(0).boxes_xyxy.equal(opened(tmp_path / "out").all_objects(0).boxes_xyxy)


def test_yolo_is_within_a_millionth_of_the_image(tmp_path: Path) -> None:
    path = source(tmp_path, "coco")
    run(path, tmp_path / "out", "yolo")
    before, after = opened(path).objects(0).boxes_xyxy, opened(tmp_path / "out").objects(0).boxes_xyxy
    assert torch.allclose(before, after, rtol=0, atol=30e-6)


def test_coco_keeps_ids_areas_and_crowds(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "a", coco(annotation(1, area=7.5), annotation(2, iscrowd=1)))
    run(file, tmp_path / "b", "coco")
    before, after = opened(file), opened(tmp_path / "b")
    assert (after.classes, after.category_ids) == (before.classes, before.category_ids)
    assert [after.record(i).image_id for i in (0, 1)] == [3, 8]
    assert after.areas(0).equal(before.areas(0))
    assert after.crowd(0).tolist() == [False, True]
    assert not (tmp_path / "b" / "val.json").exists(), "one file is one split"


@pytest.mark.parametrize("written", CLASSIFICATION)
@pytest.mark.parametrize("read", CLASSIFICATION)
def test_labels_are_the_same_in_every_format(tmp_path: Path, read: str, written: str) -> None:
    for number, name in enumerate(("train/cat/1", "train/dog/1", "train/ant/2", "val/cat/3", "val/cat/4")):
        write_image(tmp_path / "start" / f"{name}.png", 10 + number)
    run(tmp_path / "start", tmp_path / "source", read)
    run(tmp_path / "source", tmp_path / "out", written)
    assert not faults_of(tmp_path / "out")
    for split in ("train", "val"):
        before, after = (
            open_labels(tmp_path / name, split)  # type: ignore[arg-type] # train or val
            for name in ("source", "out")
        )
        assert after.classes == before.classes == ("ant", "cat", "dog")
        labels = [{Path(d.record(i).name).stem: d.label(i) for i in range(len(d))} for d in (before, after)]
        assert labels[0] == labels[1]
        assert images(before) == images(after)


def test_masks_are_the_same(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        write_image(tmp_path / "a" / "images" / split / "x.png")
        pixels = generator.choice([0, 1, 2, 255], (30, 40)).astype(np.uint8)
        write_mask(tmp_path / "a" / "masks" / split / "x_mask.png", pixels)
    write_text(tmp_path / "a" / "classes.txt", "sea\nzone 1\nland\n")
    run(tmp_path / "a", tmp_path / "b", "masks")
    for split in ("train", "val"):
        before, after = (open_masks(tmp_path / name, split) for name in "ab")  # type: ignore[arg-type] # both splits
        assert after.classes == before.classes == ("sea", "zone 1", "land")
        assert after.mask(0).equal(before.mask(0))
    assert not faults_of(tmp_path / "b")


def test_outlines_become_masks(tmp_path: Path) -> None:
    square = [[2, 3, 12, 3, 12, 9, 2, 9]]
    names = [{"id": 5, "name": "zone 1 2 3"}, {"id": 6, "name": "yes"}]
    file = write_coco(tmp_path / "a", coco(annotation(1, segmentation=square), categories=names))
    run(file, tmp_path / "b", "masks")
    before, after = open_masks(file), open_masks(tmp_path / "b")
    assert after.classes == before.classes == ("background", "zone 1 2 3", "yes")
    assert [after.mask(i).equal(before.mask(i)) for i in (0, 1)] == [True, True]


def of_digits(task: str, split: Split) -> Any:
    return open_dataset("digits", split, task, CONFIG, DIGITS)


@pytest.mark.parametrize("format", WRITTEN)
def test_the_embedded_data_set_in_every_format(tmp_path: Path, format: str) -> None:
    result = run("digits", tmp_path / "out", format)
    task: str = result["task"]
    assert (task, result["splits"]) == (WRITTEN[format][0], {"train": 5, "val": 3})
    for split in ("train", "val"):
        before: Any = of_digits(task, split)
        after: Any = open_dataset(str(tmp_path / "out"), split, task, CONFIG, DIGITS, _known(before, format))
        assert images(after) == images(before)
        if task == "detect":
            assert boxes(after) == boxes(before)
        index_of = {Path(after.record(i).name).stem: i for i in range(len(after))}
        for index in range(len(before)):
            there = index_of[before.record(index).name]
            if task == "classify":
                assert after.classes[after.label(there)] == before.classes[before.label(index)]
            elif task == "segment":
                assert after.mask(there).equal(before.mask(index))
    splits: Mapping[Split, Any] = {
        "train": of_digits("classify", "train"),
        "val": of_digits("classify", "val"),
    }
    write_dataset(splits, tmp_path / "labels", "csv", "labels")
    assert len(open_labels(tmp_path / "labels", "train", classes=splits["train"].classes)) == 5


def _known(dataset: Any, format: str) -> tuple[str, ...] | None:
    """Digits of few scenes do not all occur: their names are given where the format declares none."""
    return dataset.classes if format in ("voc", "csv", "imagefolder") else None


def test_names_that_two_images_share(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("x/a b.png", "y/A B.png", "y/a b.jpg"):
            write_image(tmp_path / "in" / split / name)
    for format in ("imagefolder", "csv"):
        run(tmp_path / "in", tmp_path / format, format)
        assert [len(open_labels(tmp_path / format, split)) for split in ("train", "val")] == [3, 3]  # type: ignore[arg-type] # both splits


def test_image_files_are_linked_and_others_are_decoded(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "cat" / "a.png")
    write_image(tmp_path / "in" / "dog" / "b.png")
    run(tmp_path / "in", tmp_path / "out", "csv")
    assert os.path.samefile(tmp_path / "in" / "cat" / "a.png", tmp_path / "out" / "train" / "a.png")
    write_image(tmp_path / "gif" / "train" / "a.gif")
    write_text(tmp_path / "gif" / "train.csv", "image_path,label\na.gif,x\n")
    run(tmp_path / "gif", tmp_path / "png", "imagefolder")
    assert images(open_labels(tmp_path / "png")) == images(open_labels(tmp_path / "gif"))


def test_what_yolo_and_voc_cannot_say_is_left_out(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "a", coco(annotation(1, bbox=[-1, 0, 42, 30]), annotation(2, iscrowd=1)))
    run(file, tmp_path / "b", "yolo")
    dataset = opened(tmp_path / "b")
    assert dataset.objects(0).boxes_xyxy.tolist() == [[0, 0, 40, 30]]
    assert dataset.classes == ("cat", "dog")
    run(file, tmp_path / "c", "voc")
    assert opened(tmp_path / "c").all_objects(0).boxes_xyxy.tolist() == [[-1, 0, 41, 30]]
    assert opened(tmp_path / "c").classes == ("dog",)


def test_conversions_that_are_not_possible(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "a")
    with pytest.raises(
        UserError,
        match=r"imagefolder holds data for the task classify: .* serves detect; give --format coco or",
    ):
        run(file, tmp_path / "b", "imagefolder")
    with pytest.raises(UserError, match=r"--format must be one of .*: got yollo; did you mean 'yolo'"):
        run(file, tmp_path / "b", "yollo")
    with pytest.raises(UserError, match="exists and is not empty"):
        run(file, tmp_path / "a", "yolo")
    with pytest.raises(UserError, match="exists and is not empty"):
        run(file, file, "yolo")
    with pytest.raises(UserError, match="there is no data set"):
        run(tmp_path / "nowhere", tmp_path / "b", "yolo")
    with pytest.raises(UserError, match="masks holds masks or outlines: got a data set of boxes"):
        write_dataset({"train": opened(file)}, tmp_path / "b", "masks", "boxes")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"], "nothing is left behind"


def test_names_of_classes_that_cannot_be_written(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "a.png")
    write_text(tmp_path / "a" / "train.csv", "image_path,label\na.png,cats/dogs\n")
    with pytest.raises(UserError, match="a name that a folder can have: got 'cats/dogs'"):
        run(tmp_path / "a", tmp_path / "b", "imagefolder")
    dataset = opened(write_coco(tmp_path / "c", coco(annotation(), categories=[{"id": 5, "name": "a\nb"}])))
    assert isinstance(dataset, FileDataset)
    with pytest.raises(UserError, match=r"printable name .* got 'a\\nb'"):
        write_dataset({"train": dataset}, tmp_path / "b", "voc", "boxes")


def test_a_broken_image_leaves_nothing_behind(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "train" / "a.png")
    write_mask(tmp_path / "a" / "train" / "masks" / "a.png", np.full((30, 40), 1, np.uint8))
    write_image(tmp_path / "a" / "train" / "images" / "a.png")
    config = replace(CONFIG, classes="x,y")
    dataset = open_dataset(str(tmp_path / "a"), "train", "segment", config, DIGITS)
    assert dataset is not None
    (tmp_path / "a" / "train" / "masks" / "a.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"a\.png"):
        write_dataset({"train": dataset}, tmp_path / "b", "masks", "masks")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def with_classes(folder: Path) -> Path:
    write_text(folder / "classes.txt", "background\nsquare\n")
    return folder


@pytest.mark.parametrize(
    ("write", "format"),
    [
        (lambda folder: banded.write_coco(folder, banded.NEAR_INFRARED, 2, 1), "yolo"),
        (lambda folder: banded.write_coco(folder, banded.NEAR_INFRARED, 2, 1), "coco"),
        (lambda folder: with_classes(banded.write_masks(folder, banded.NEAR_INFRARED, 2, 1)), "masks"),
        (lambda folder: banded.write_classes(folder, 1), "imagefolder"),
    ],
)
def test_images_of_many_bands_and_16_bits_are_passed_on_as_they_are(
    tmp_path: Path, write: Callable[[Path], Path], format: str
) -> None:
    start = write(tmp_path / "start")
    run(start, tmp_path / "out", format)
    given, got = (
        sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*.tif"))
        for folder in (tmp_path / "start", tmp_path / "out")
    )
    assert got == given
    assert len(given) >= 2
