"""The annotation files of each format that is written, for one split; its images are placed by `writing`.

Every writer takes the split's data set, the split's name, the name of each image file and the data set's folder.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import yaml

from ziggurat.data.batch import Objects
from ziggurat.data.dataset import (
    ClassificationDataset,
    DetectionDataset,
    SegmentationDataset,
    all_annotations,
)
from ziggurat.data.formats.csv_layout import COLUMNS, LABEL_COLUMNS
from ziggurat.data.formats.palette import is_colored
from ziggurat.data.formats.table import Split
from ziggurat.data.formats.voc import CORNERS
from ziggurat.data.masks import save_mask


def write_coco(dataset: DetectionDataset, split: Split, names: Sequence[str], folder: Path) -> None:
    """Write ``train.json`` or ``val.json``; areas and crowds are those of the data set, where it has them."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index, name in enumerate(names):
        record = dataset.record(index)
        size = {"height": record.height, "width": record.width}
        images.append({"id": record.image_id, "file_name": name, **size})
        for entry in _coco_objects(dataset, index):
            annotations.append({"id": len(annotations) + 1, "image_id": record.image_id, **entry})
    categories = [
        {"id": id, "name": name} for id, name in zip(dataset.category_ids, dataset.classes, strict=True)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_csv(dataset: DetectionDataset, split: Split, names: Sequence[str], folder: Path) -> None:
    """Write ``train.csv`` or ``val.csv`` with a line for each box."""
    with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(COLUMNS)
        for index, name in enumerate(names):
            objects = _no_crowds(dataset, index)
            for box, label in _boxes(objects):
                rows.writerow([name, *map(_number, box), dataset.classes[label]])
            if not len(objects):
                rows.writerow([name, "", "", "", "", ""])


def write_label_csv(dataset: ClassificationDataset, split: Split, names: Sequence[str], folder: Path) -> None:
    """Write ``train.csv`` or ``val.csv`` with a line for each image."""
    with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(LABEL_COLUMNS)
        rows.writerows([name, dataset.classes[dataset.label(index)]] for index, name in enumerate(names))


def write_voc(dataset: DetectionDataset, split: Split, names: Sequence[str], folder: Path) -> None:
    """Write a file of ``Annotations`` for each image, and the split's list of them."""
    annotations, lists = folder / "Annotations", folder / "ImageSets" / "Main"
    annotations.mkdir(parents=True, exist_ok=True)
    lists.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        record = dataset.record(index)
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = name
        size = ElementTree.SubElement(root, "size")
        for key, value in (("width", record.width), ("height", record.height), ("depth", 3)):
            ElementTree.SubElement(size, key).text = str(value)
        for box, label in _boxes(_no_crowds(dataset, index)):
            entry = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(entry, "name").text = dataset.classes[label]
            corners = ElementTree.SubElement(entry, "bndbox")
            for key, corner in zip(CORNERS, box, strict=True):
                ElementTree.SubElement(corners, key).text = _number(corner)
        ElementTree.indent(root)
        ElementTree.ElementTree(root).write(annotations / f"{Path(name).stem}.xml", encoding="utf-8")
    stems = [f"{Path(name).stem}\n" for name in names]
    (lists / f"{split}.txt").write_text("".join(stems), encoding="utf-8")


def write_yolo(dataset: DetectionDataset, split: Split, names: Sequence[str], folder: Path) -> None:
    """Write a file of ``labels`` for each image, and ``data.yaml``, which knows of the splits written before."""
    labels = folder / "labels" / split
    labels.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        record = dataset.record(index)
        lines = []
        for (x1, y1, x2, y2), label in _boxes(_no_crowds(dataset, index)):
            left, right = max(0.0, x1) / record.width, min(record.width, x2) / record.width
            top, bottom = max(0.0, y1) / record.height, min(record.height, y2) / record.height
            numbers = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
            lines.append(" ".join([str(label), *(f"{number:.10g}" for number in numbers)]) + "\n")
        (labels / f"{Path(name).stem}.txt").write_text("".join(lines))
    file = folder / "data.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    content = {
        **content,
        split: f"images/{split}",
        "nc": len(dataset.classes),
        "names": list(dataset.classes),
    }
    file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def write_masks(dataset: SegmentationDataset, split: Split, names: Sequence[str], folder: Path) -> None:
    """Write a PNG of labels for each image, 255 where it is ignored, and the names of the classes."""
    masks = folder / "masks" / split
    masks.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        save_mask(masks / f"{Path(name).stem}.png", dataset.mask(index))
    if any(map(is_colored, dataset.classes)):  # a name with three numbers would be read as a color
        text = json.dumps(dataset.classes, ensure_ascii=False)
        (folder / "classes.json").write_text(text, encoding="utf-8")
    else:
        text = "".join(f"{name}\n" for name in dataset.classes)
        (folder / "classes.txt").write_text(text, encoding="utf-8")


def _coco_objects(dataset: DetectionDataset, index: int) -> list[dict[str, object]]:
    """Return what COCO says of each object but its ids."""
    every = all_annotations(dataset, index)
    areas, crowd = every.areas.tolist(), every.crowd.tolist()
    return [
        {
            "category_id": dataset.category_ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": area,
            "iscrowd": int(is_crowd),
        }
        for ((x1, y1, x2, y2), label), area, is_crowd in zip(_boxes(every.objects), areas, crowd, strict=True)
    ]


def _no_crowds(dataset: DetectionDataset, index: int) -> Objects:
    """Return the objects of an image as they are written, which may end outside of it."""
    every = all_annotations(dataset, index)
    return Objects(every.objects.boxes_xyxy[~every.crowd], every.objects.labels[~every.crowd])


def _boxes(objects: Objects) -> list[tuple[list[float], int]]:
    return list(zip(objects.boxes_xyxy.tolist(), objects.labels.tolist(), strict=True))


def _number(value: float) -> str:
    """Spell a number so that reading it gives the same.

    Example:
        >>> _number(12.0), _number(0.1)
        ('12', '0.1')
    """
    return str(int(value)) if value == int(value) else repr(value)
