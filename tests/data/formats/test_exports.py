"""What annotation tools export, in folders as they lay them out: recognised, with the boxes that were drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support.datasets import annotation, coco, faults_of, open_labels, opened, write_image
from support.layouts import write

BOX = "1 0.5 0.5 0.25 0.5\n"  # of 40 x 30 pixels: x 15 to 25, y 7.5 to 22.5
IN_PIXELS = [15, 7.5, 25, 22.5]


def coco_of(*names: str) -> str:
    images = [{"id": 3 + number, "file_name": name} for number, name in enumerate(names)]
    return json.dumps(coco(annotation(bbox=[15, 7.5, 10, 15]), images=images))


def cvat_coco(folder: Path) -> None:
    write(folder / "annotations" / "instances_default.json", coco_of("a.png"))
    write_image(folder / "images" / "default" / "a.png")


def cvat_coco_of_splits(folder: Path) -> None:
    for split in ("Train", "Validation"):
        write(folder / "annotations" / f"instances_{split}.json", coco_of(f"{split}.png"))
        write(folder / "annotations" / f"person_keypoints_{split}.json", coco_of(f"{split}.png"))
        write_image(folder / "images" / split / f"{split}.png")


def cvat_yolo(folder: Path) -> None:
    write(
        folder / "obj.data",
        "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n",
    )
    write(folder / "obj.names", "cat\ndog\n")
    for split in ("train", "valid"):
        write(folder / f"{split}.txt", f"data/obj_{split}_data/{split}.png\n")
        write_image(folder / f"obj_{split}_data" / f"{split}.png")
        write(folder / f"obj_{split}_data" / f"{split}.txt", BOX)


def cvat_ultralytics(folder: Path) -> None:
    write(folder / "data.yaml", "names:\n  0: cat\n  1: dog\npath: .\ntrain: train.txt\n")
    write(folder / "train.txt", "data/images/train/a.png\n")
    write_image(folder / "images" / "train" / "a.png")
    write(folder / "labels" / "train" / "a.txt", BOX)


def labelimg(folder: Path) -> None:
    write(folder / "classes.txt", "cat\ndog\n")
    write_image(folder / "a.png")
    write(folder / "a.txt", BOX)
    write_image(folder / "without.png")


def labelimg_in_images(folder: Path) -> None:
    labelimg(folder / "images" / "inner")


def labelimg_of_splits(folder: Path) -> None:
    write(folder / "classes.txt", "cat\ndog\n")
    for split in ("train", "val"):
        write_image(folder / split / "a.png")
        write(folder / split / "a.txt", BOX)


def label_studio(folder: Path) -> None:
    write(folder / "result.json", coco_of("images\\8f3a-a.png"))
    write_image(folder / "images" / "8f3a-a.png")


def fiftyone(folder: Path) -> None:
    write(folder / "labels.json", coco_of("a.png"))
    write_image(folder / "data" / "a.png")


EXPORTS: list[tuple[Callable[[Path], None], str]] = [
    (cvat_coco, ""), (cvat_coco_of_splits, ""), (cvat_yolo, ""), (cvat_ultralytics, ""), (labelimg, ""),
    (labelimg_in_images, "images/inner"), (labelimg_of_splits, ""), (label_studio, ""), (fiftyone, ""),
]  # fmt: skip


@pytest.mark.parametrize(("export", "inner"), EXPORTS, ids=[export.__name__ for export, _ in EXPORTS])
def test_an_export_is_recognised(tmp_path: Path, export: Callable[[Path], None], inner: str) -> None:
    export(tmp_path)
    folder = tmp_path / inner
    splits = ["train", "val"] if export in (cvat_coco_of_splits, cvat_yolo, labelimg_of_splits) else ["train"]
    for split in splits:
        dataset = opened(folder, split)  # type: ignore[arg-type] # one of two
        assert dataset.objects(0).boxes_xyxy.tolist() == [IN_PIXELS]
        assert dataset.classes[int(dataset.objects(0).labels[0])] == "dog"
    assert faults_of(folder) == []


def test_texts_of_another_kind_beside_images_are_no_labels(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_image(tmp_path / name / "a.png")
        write(tmp_path / name / "a.txt", "a fine picture\n")
    write(tmp_path / "classes.txt", "cat\ndog\n")
    assert open_labels(tmp_path).classes == ("cat", "dog")
