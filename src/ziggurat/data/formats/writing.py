"""Writes data sets, and converts them from one format to another.

What a format cannot say is lost: crowds (all but COCO), outlines (all but masks), classes of no image (VOC, CSV,
ImageFolder), and the parts of boxes outside of the image (YOLO).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ziggurat.config import DataConfig, DigitsConfig, Task
from ziggurat.data.dataset import (
    ClassificationDataset,
    Dataset,
    DetectionDataset,
    FileImages,
    SegmentationDataset,
)
from ziggurat.data.formats import writers
from ziggurat.data.formats.imagefolder import SUFFIXES
from ziggurat.data.formats.opening import open_dataset, recognise_tasks
from ziggurat.data.formats.recognise import recognise
from ziggurat.data.formats.table import Format, Split
from ziggurat.errors import UserError, nearest

# What each format holds, the most natural first.
WRITTEN: dict[Format, tuple[Task, ...]] = {
    "coco": ("detect",),
    "csv": ("detect", "classify"),
    "imagefolder": ("classify",),
    "masks": ("segment",),
    "voc": ("detect",),
    "yolo": ("detect",),
}

_Write = Callable[[DetectionDataset, Split, Sequence[str], Path], None]

# Where the images lie, and what writes the annotations.
_DETECTION: dict[Format, tuple[str, _Write]] = {
    "coco": ("{split}", writers.write_coco),
    "csv": ("{split}", writers.write_csv),
    "voc": ("JPEGImages", writers.write_voc),
    "yolo": ("images/{split}", writers.write_yolo),
}


def convert(path: str, out: Path, format: str, config: DataConfig, digits: DigitsConfig) -> dict[str, Any]:
    """Convert a data set, as ``ziggurat convert`` does; image files are linked where possible, else copied.

    Args:
        path: The data set: a folder, an annotation file, or ``digits``.
        out: The folder of the new data set; it must not exist, or be empty.
        format: One of `WRITTEN`.
        config: How images and masks are read.
        digits: How the embedded data set looks.

    Returns:
        The fields ``format``, ``task``, ``out``, ``classes`` and the images of each of the ``splits``.

    Raises:
        UserError: If the format is not known or does not hold what the data set serves, for faults of the data set,
            or if the folder cannot be written.
    """
    kind = next((known for known in WRITTEN if known == format), None)
    if kind is None:
        raise UserError(
            f"--format must be one of {', '.join(WRITTEN)}: got {format}; {nearest(format, list(WRITTEN))}"
        )
    _check_out(out)
    serves = recognise_tasks(path, config)
    task = next((task for task in WRITTEN[kind] if task in serves), None)
    if task is None:
        possible = [name for name, tasks in WRITTEN.items() if set(tasks) & set(serves)]
        raise UserError(
            f"{kind} holds data for the task {' or '.join(WRITTEN[kind])}: {path} serves {' and '.join(serves)}; give --format "
            f"{' or '.join(possible)}"
        )
    splits: dict[Split, Dataset] = {}
    for split in _split_names(path, task):
        dataset = open_dataset(path, split, task, config, digits)
        if dataset is not None:
            splits[split] = dataset
    write_dataset(splits, out, kind)
    return {
        "format": kind,
        "task": task,
        "out": str(out),
        "classes": list(next(iter(splits.values())).classes),
        "splits": {split: len(dataset) for split, dataset in splits.items()},
    }


def write_dataset(splits: Mapping[Split, Dataset], folder: Path, format: Format) -> None:
    """Write a data set with all its splits and images.

    The folder appears when all is written.

    Args:
        splits: The data set of each split, all for one task.
        folder: It must not exist, or be empty.
        format: One of `WRITTEN`, which holds the data sets' task.

    Raises:
        UserError: If the format cannot hold a data set or the name of a class, an image or mask cannot be read, or
            the folder cannot be written.
    """
    _check_out(folder)
    classes = {name for dataset in splits.values() for name in dataset.classes}
    _check_classes(classes, format)
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {partial}: {error.strerror}; remove it or choose another"
        ) from error
    try:
        taken: set[str] = set()
        for split, dataset in splits.items():
            _write_split(dataset, split, partial, format, taken)
        os.replace(partial, folder)
    except OSError as error:
        raise UserError(f"cannot write the data set {folder}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_split(dataset: Dataset, split: Split, folder: Path, format: Format, taken: set[str]) -> None:
    names = _file_names(dataset, taken)
    if format == "imagefolder" and isinstance(dataset, ClassificationDataset):
        parts = [f"{split}/{dataset.classes[dataset.label(index)]}" for index in range(len(dataset))]
    elif format == "masks" and isinstance(dataset, SegmentationDataset):
        parts = [f"images/{split}"] * len(dataset)
        writers.write_masks(dataset, split, names, folder)
    elif format == "csv" and isinstance(dataset, ClassificationDataset):
        parts = [split] * len(dataset)
        writers.write_label_csv(dataset, split, names, folder)
    elif format in _DETECTION and isinstance(dataset, DetectionDataset):
        place, write = _DETECTION[format]
        parts = [place.format(split=split)] * len(dataset)
        write(dataset, split, names, folder)
    else:
        held = " or ".join(WRITTEN[format])
        raise UserError(f"{format} holds data for the task {held}: got a data set for another task")
    for index, (part, name) in enumerate(zip(parts, names, strict=True)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        _write_image(dataset, index, folder / part / name)


def _split_names(path: str, task: Task) -> list[Split]:
    """Return the splits that are written; of an annotation file, which serves as both, there is one."""
    if path == "digits":
        return ["train", "val"]
    sources = recognise(Path(path)).sources(path, task)
    return ["train"] if sources.get("train") == sources.get("val") else list(sources)


def _check_out(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"the new data set needs a folder of its own: {out} exists and is not empty; choose another"
        )


def _check_classes(classes: set[str], format: Format) -> None:
    faults = []
    for name in sorted(classes):
        if not name.isprintable() or not name or name != name.strip():
            faults.append(
                f"a class must have a printable name without blanks at its ends: got {name!r}; rename it"
            )
        elif format == "imagefolder" and ("/" in name or "\\" in name or name in (".", "..")):
            faults.append(f"a class must have a name that a folder can have: got {name!r}; rename it")
    if faults:
        raise UserError(faults)


def _file_names(dataset: Dataset, taken: set[str]) -> list[str]:
    """Return a name for each image file that no other of the data set has, not even with another suffix."""
    names = []
    for index in range(len(dataset)):
        path = (
            dataset.path(index)
            if isinstance(dataset, FileImages)
            else Path(dataset.record(index).name + ".png")
        )
        own = re.sub(r"[^\w.\-]", "_", path.stem).lstrip(".") or "image"
        stem, number = own, 1
        while stem.lower() in taken:
            number += 1
            stem = f"{own}-{number}"
        taken.add(stem.lower())
        suffix = path.suffix if path.suffix.lower() in SUFFIXES else ".png"
        names.append(stem + suffix)
    return names


def _write_image(dataset: Dataset, index: int, target: Path) -> None:
    """Link an image file, copy it where that is not possible, or write pixels as PNG."""
    if not isinstance(dataset, FileImages) or dataset.path(index).suffix != target.suffix:
        Image.fromarray(dataset.image(index).permute(1, 2, 0).numpy()).save(target)
        return
    source = dataset.path(index).resolve()
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)
