"""Splits as each format means them: a test split is measured where it is asked for, and never trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ziggurat.commands.check import check
from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.formats import open_split
from ziggurat.data.formats.check import find_faults
from ziggurat.errors import UserError

XML = (
    "<annotation><filename>{name}.png</filename><size><width>20</width><height>10</height></size><object><name>tree</name>"
    "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def coco(path: Path, name: str, annotated: bool = True) -> None:
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 8, 8]}
    content = {
        "images": [{"id": 1, "file_name": name}],
        "annotations": [entry] if annotated else [],
        "categories": [{"id": 1, "name": "tree"}],
    }
    text(path, json.dumps(content))


def coco_files(root: Path) -> None:
    for split in ("train", "val", "test"):
        image(root / split / f"{split}.png")
        coco(root / f"{split}.json", f"{split}.png")


def coco_layout(root: Path) -> None:
    for split in ("train", "val", "test"):
        image(root / f"{split}2017" / f"{split}.png")
        coco(root / "annotations" / f"instances_{split}2017.json", f"{split}.png")
    coco(root / "annotations" / "image_info_test-dev2017.json", "test.png", annotated=False)


def roboflow(root: Path) -> None:
    for split in ("train", "valid", "test"):
        image(root / split / f"{split.replace('valid', 'val')}.png")
        coco(root / split / "_annotations.coco.json", f"{split.replace('valid', 'val')}.png")


def csv(root: Path) -> None:
    for split in ("train", "val", "test"):
        image(root / "images" / f"{split}.png")
        text(root / f"{split}.csv", f"image_path,xmin,ymin,xmax,ymax,label\n{split}.png,1,1,9,9,tree\n")


def voc(root: Path) -> None:
    for split in ("train", "val", "test"):
        image(root / "JPEGImages" / f"{split}.png")
        text(root / "Annotations" / f"{split}.xml", XML.format(name=split))
        text(root / "ImageSets" / "Main" / f"{split}.txt", f"{split}\n")
    text(root / "ImageSets" / "Main" / "trainval.txt", "train\nval\n")


def voc_trainval(root: Path) -> None:
    """As VOC 2007 comes where ``train.txt`` was left away."""
    voc(root)
    (root / "ImageSets" / "Main" / "train.txt").unlink()
    text(root / "ImageSets" / "Main" / "trainval.txt", "train\nval\ntest\n")


def yolo_yaml(root: Path) -> None:
    for split in ("train", "val", "test"):
        image(root / "images" / split / f"{split}.png")
        text(root / "labels" / split / f"{split}.txt", "0 0.5 0.5 0.5 0.5\n")
    text(root / "data.yaml", "train: images/train\nval: images/val\ntest: images/test\nnames: [tree]\n")


def yolo_folders(root: Path) -> None:
    yolo_yaml(root)
    (root / "data.yaml").unlink()
    text(root / "classes.txt", "tree\n")


def yolo_darknet(root: Path) -> None:
    for split in ("train", "val", "test"):
        image(root / "obj" / f"{split}.png")
        text(root / "obj" / f"{split}.txt", "0 0.5 0.5 0.5 0.5\n")
        text(root / f"{split}.txt", f"data/obj/{split}.png\n")
    text(root / "obj.names", "tree\n")
    text(
        root / "obj.data",
        "train = data/train.txt\nvalid = data/val.txt\ntest = data/test.txt\nnames = data/obj.names\n",
    )


def labelme(root: Path) -> None:
    shape = {"label": "tree", "shape_type": "rectangle", "points": [[1, 1], [9, 9]]}
    for split in ("train", "val", "test"):
        image(root / split / f"{split}.png")
        text(root / split / f"{split}.json", json.dumps({"shapes": [shape], "imagePath": f"{split}.png"}))


def class_folders(root: Path) -> None:
    for split in ("train", "val", "test"):
        image(root / split / "oak" / f"{split}.png")
        image(root / split / "pine" / f"{split}-2.png")


def mask_folders(root: Path) -> None:
    text(root / "classes.txt", "background\ntree\n")
    for split in ("train", "val", "test"):
        image(root / "images" / split / f"{split}.png")
        mask = root / "masks" / split / f"{split}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ones((10, 20), np.uint8)).save(mask)


def voc_masks(root: Path) -> None:
    for split in ("train", "val", "test"):
        image(root / "JPEGImages" / f"{split}.png")
        mask = root / "SegmentationClass" / f"{split}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ones((10, 20), np.uint8)).save(mask)
    lists = root / "ImageSets" / "Segmentation"
    text(lists / "trainval.txt", "train\nval\ntest\n")
    text(lists / "val.txt", "val\n")
    text(lists / "test.txt", "test\n")


LAYOUTS: list[Callable[[Path], None]] = [
    coco_files, coco_layout, roboflow, csv, voc, voc_trainval, yolo_yaml, yolo_folders, yolo_darknet, labelme,
    class_folders, mask_folders, voc_masks,
]  # fmt: skip
KINDS = ["boxes", "labels", "masks"]


def names(root: Path, split: str) -> set[str]:
    dataset = open_split(str(root), split, KINDS, DataConfig(), DigitsConfig())
    assert dataset is not None
    return {Path(dataset.record(index).name).stem.removesuffix("-2") for index in range(len(dataset))}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_split_has_its_own_images(tmp_path: Path, layout: Callable[[Path], None]) -> None:
    layout(tmp_path)
    for split in ("train", "val", "test"):
        assert names(tmp_path, split) == {split}
    faults, summary = find_faults(str(tmp_path), DataConfig())
    assert not faults
    assert set(summary.splits) == {"train", "val", "test"}


ALONE = [coco_files, coco_layout, roboflow, csv, voc, yolo_folders, labelme, class_folders, mask_folders]


@pytest.mark.parametrize("kept", ["train", "val", "test"])
@pytest.mark.parametrize("layout", ALONE)
def test_a_data_set_of_one_split_is_checked(
    tmp_path: Path, layout: Callable[[Path], None], kept: str
) -> None:
    """A data set to measure on has no train split, and faults all the same."""
    layout(tmp_path)
    others = {"train", "val", "test"} - {kept}
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        name = path.name.replace("valid", "val")
        if any(name.removeprefix("instances_").startswith(other) for other in others):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    result = check(str(tmp_path), DataConfig())
    assert (result["ok"], list(result["splits"]), result["faults"]) == (True, [kept], [])
    assert kept == "train" or result["balance"] is None


def without_annotations(root: Path) -> None:
    coco_files(root)
    coco(root / "test.json", "test.png", annotated=False)


def without_xml(root: Path) -> None:
    voc(root)
    (root / "Annotations" / "test.xml").unlink()


def without_texts(root: Path) -> None:
    yolo_folders(root)
    (root / "labels" / "test" / "test.txt").unlink()


def not_there(root: Path) -> None:
    """As Roboflow writes data.yaml, whatever was exported."""
    yolo_yaml(root)
    text(root / "data.yaml", "train: images/train\nval: images/val\ntest: ../tests/images\nnames: [tree]\n")


def images_alone(root: Path) -> None:
    class_folders(root)
    for name in ("oak", "pine"):
        for file in (root / "test" / name).iterdir():
            file.rename(root / "test" / file.name)
        (root / "test" / name).rmdir()


def ids_alone(root: Path) -> None:
    """As Kaggle gives a test set: names without labels."""
    csv(root)
    text(root / "test.csv", "id\ntest.png\n")


def masks_alone(root: Path) -> None:
    mask_folders(root)
    (root / "masks" / "test" / "test.png").unlink()


def lists_alone(root: Path) -> None:
    voc_masks(root)
    (root / "SegmentationClass" / "test.png").unlink()


@pytest.mark.parametrize(
    "layout",
    [without_annotations, without_xml, without_texts, not_there, images_alone, ids_alone, masks_alone, lists_alone],
)  # fmt: skip
def test_a_test_split_without_annotations_harms_nothing_and_is_not_measured(
    tmp_path: Path, layout: Callable[[Path], None]
) -> None:
    layout(tmp_path)
    assert names(tmp_path, "train") == {"train"}
    assert names(tmp_path, "val") == {"val"}
    with pytest.raises(UserError, match="has no test split: only train, val was found"):
        names(tmp_path, "test")
    assert find_faults(str(tmp_path), DataConfig())[0] == []


def test_a_folder_with_a_test_split_alone_is_not_trained_on(tmp_path: Path) -> None:
    voc(tmp_path)
    for name in ("train", "val", "trainval"):
        (tmp_path / "ImageSets" / "Main" / f"{name}.txt").unlink()
    assert names(tmp_path, "test") == {"test"}
    with pytest.raises(UserError, match="has no train split: only test was found"):
        names(tmp_path, "train")


def test_an_annotation_file_serves_as_every_split(tmp_path: Path) -> None:
    coco_files(tmp_path)
    for split in ("train", "val", "test"):
        assert names(tmp_path / "test.json", split) == {"test"}


def test_the_embedded_data_set_has_none() -> None:
    with pytest.raises(UserError, match="digits has no test split"):
        open_split("digits", "test", ["boxes"], DataConfig(), DigitsConfig())
