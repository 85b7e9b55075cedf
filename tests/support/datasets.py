"""Writes small data sets of every format into a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.dataset import ImageRecord, SegmentationDataset
from ziggurat.data.file_dataset import FileDataset
from ziggurat.data.formats import Fault, find_faults
from ziggurat.data.formats.table import Split
from ziggurat.data.labels import LabelDataset
from ziggurat.tasks.opening import open_dataset

CONFIG = DataConfig(max_pixels=1 << 26)


class Sized:
    """A data set of which only the sizes of its images are given: rows and columns."""

    def __init__(self, *sizes: tuple[int, int]) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def record(self, index: int) -> ImageRecord:
        return ImageRecord(f"{index}.png", index + 1, *self.sizes[index])


def write_image(path: Path, width: int = 40, height: int = 30) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (10, 200, 30)).save(path)
    return path


def write_mask(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.copy()
        image.putpalette([channel for number in range(256) for channel in (number, 255 - number, 7)])
    image.save(path)
    return path


def write_folder_of_classes(folder: Path, names: Sequence[str], side: int = 64) -> Path:
    """Write images of noise, named ``CLASS/FILE``, into ``train`` and ``val``; return the folder."""
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
        for split in ("train", "val"):
            path = folder / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


def coco(*annotations: dict[str, Any], **replaced: Any) -> dict[str, Any]:
    """Two images, ``a.png`` (id 3) and ``b.png`` (id 8), and two categories, ``cat`` (1) and ``dog`` (5)."""
    return {
        "images": [
            {"id": 3, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 8, "file_name": "b.png", "width": 40, "height": 30},
        ],
        "annotations": list(annotations),
        "categories": [{"id": 5, "name": "dog"}, {"id": 1, "name": "cat"}],
        **replaced,
    }


def annotation(id: int = 1, **replaced: Any) -> dict[str, Any]:
    return {"id": id, "image_id": 3, "category_id": 5, "bbox": [1, 2, 10, 20], "iscrowd": 0, **replaced}


def write_coco(folder: Path, content: Any = None, name: str = "train.json") -> Path:
    """Write the two images and the annotations; `content` may be any JSON."""
    for image in ("a.png", "b.png"):
        write_image(folder / image)
    file = folder / name
    file.write_text(json.dumps(coco(annotation()) if content is None else content))
    return file


def voc(*objects: tuple[str, str], filename: str = "a.png", size: str = "") -> str:
    """Return XML with objects of (name, the inside of bndbox)."""
    entries = "".join(f"<object><name>{n}</name><bndbox>{box}</bndbox></object>" for n, box in objects)
    return f"<annotation><filename>{filename}</filename>{size}{entries}</annotation>"


def corners(*values: object) -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    return "".join(f"<{name}>{value}</{name}>" for name, value in zip(names, values, strict=True))


def opened(path: Path, split: Split = "train", classes: tuple[str, ...] | None = None) -> FileDataset:
    dataset = open_dataset(str(path), split, "detect", CONFIG, DigitsConfig(), classes)
    assert isinstance(dataset, FileDataset)
    return dataset


def guesses(notes: Sequence[str]) -> list[str]:
    """Return notes without the one on classes that have no example, as most sets of one annotation have one."""
    return [note for note in notes if "have no example" not in note]


def faults_of(path: Path) -> list[Fault]:
    return find_faults(str(path), CONFIG)[0]


def write_text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def open_labels(path: Path, split: Split = "train", classes: tuple[str, ...] | None = None) -> LabelDataset:
    dataset = open_dataset(str(path), split, "classify", CONFIG, DigitsConfig(), classes)
    assert isinstance(dataset, LabelDataset)
    return dataset


def open_masks(
    path: Path, split: Split = "train", classes: tuple[str, ...] | None = None, config: DataConfig = CONFIG
) -> SegmentationDataset:
    dataset = open_dataset(str(path), split, "segment", config, DigitsConfig(), classes)
    assert hasattr(dataset, "mask")
    return dataset
