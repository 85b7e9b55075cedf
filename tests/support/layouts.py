"""Small data sets in every layout that is recognised, written into a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from support.datasets import annotation, coco, corners, voc, write_image, write_mask

ROW = "image_path,xmin,ymin,xmax,ymax,label\na.png,1,2,11,22,dog\n"
XML = voc(("dog", corners(1, 2, 11, 22)))


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def named_coco(folder: Path) -> None:
    for split in ("train", "val"):
        write(folder / f"{split}.json", json.dumps(coco(annotation())))
        write_image(folder / split / "a.png")
        write_image(folder / split / "b.png")


def named_csv(folder: Path) -> None:
    for split in ("train", "val"):
        write(folder / f"{split}.csv", ROW)
        write_image(folder / "images" / "a.png")


def cocos_own(folder: Path) -> None:
    for split in ("train", "val"):
        write(folder / "annotations" / f"instances_{split}2017.json", json.dumps(coco(annotation())))
        write(folder / "annotations" / f"captions_{split}2017.json", json.dumps(coco()))
        write_image(folder / f"{split}2017" / "a.png")
        write_image(folder / f"{split}2017" / "b.png")


def vocs_own(folder: Path) -> None:
    for split, name in (("train", "a"), ("val", "b")):
        write(folder / "Annotations" / f"{name}.xml", XML.replace("a.png", f"{name}.png"))
        write(folder / "ImageSets" / "Main" / f"{split}.txt", f"{name}  1\n")
        write_image(folder / "JPEGImages" / f"{name}.png")


def folders_with_coco(folder: Path) -> None:
    for split in ("train", "valid"):
        write(folder / split / "_annotations.coco.json", json.dumps(coco(annotation())))
        write_image(folder / split / "a.png")
        write_image(folder / split / "b.png")


def folders_with_csv(folder: Path) -> None:
    for split in ("train", "val"):
        write(folder / split / "boxes.csv", ROW)
        write_image(folder / split / "a.png")


def folders_with_voc(folder: Path) -> None:
    for split in ("train", "val"):
        write(folder / split / "a.xml", XML)
        write_image(folder / split / "a.png")


def yolos_own(folder: Path) -> None:
    write(folder / "data.yaml", "names: [cat, dog]\ntrain: images/train\nval: images/val\n")
    for split in ("train", "val"):
        write_image(folder / "images" / split / f"{split}.png")
        write(folder / "labels" / split / f"{split}.txt", "1 0.5 0.5 0.2 0.4\n")


def yolo_without_yaml(folder: Path) -> None:
    write(folder / "classes.txt", "cat\ndog\n")
    for split in ("train", "val"):
        write_image(folder / split / "images" / "a.png")
        write(folder / split / "labels" / "a.txt", "1 0.5 0.5 0.2 0.4\n")


def class_folders(folder: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            write_image(folder / split / name / "inner" / "a.png")
            write_image(folder / split / name / "b.png")


def masks(folder: Path) -> None:
    write(folder / "classes.txt", "background\ncat\ndog\n")
    for split in ("train", "val"):
        for name in ("a", "b"):
            write_image(folder / "images" / split / f"{name}.png")
            write_mask(folder / "masks" / split / f"{name}_mask.png", np.full((30, 40), 2, dtype=np.uint8))


def labels_csv(folder: Path) -> None:
    for split in ("train", "val"):
        write(folder / f"{split}.csv", "image_path,label\na.png,dog\n")
        write_image(folder / "images" / "a.png")


WITH_BOXES = [
    named_coco,
    named_csv,
    cocos_own,
    vocs_own,
    folders_with_coco,
    folders_with_csv,
    folders_with_voc,
]
EVERY_LAYOUT = [*WITH_BOXES, yolos_own, yolo_without_yaml, class_folders, masks, labels_csv]
