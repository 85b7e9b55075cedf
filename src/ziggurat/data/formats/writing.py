"""Writes data sets.

What a format cannot say is lost: crowds (all but COCO), outlines (all but masks), classes of no image (VOC, CSV,
ImageFolder), and the parts of boxes outside of the image (YOLO).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ziggurat.data.dataset import Dataset
from ziggurat.data.file_dataset import FileImages
from ziggurat.data.formats import builtin  # noqa: F401 - registers the formats of our own
from ziggurat.data.formats.imagefolder import SUFFIXES
from ziggurat.data.formats.registry import FORMATS
from ziggurat.data.formats.table import Split
from ziggurat.data.readers.pages import stem_of
from ziggurat.errors import UserError
from ziggurat.system.writing import CannotWrite

Progress = Callable[[int, int], None]


def nobody_watches(done: int, total: int) -> None:
    """Take no note of how far something is."""


def write_dataset(
    splits: Mapping[Split, Dataset], folder: Path, format: str, kind: str, progress: Progress = nobody_watches
) -> None:
    """Write a data set with all its splits and images.

    The folder appears when all is written.

    Args:
        splits: The data set of each split.
        folder: It must not exist, or be empty.
        format: The name of a format that is written.
        kind: The kind of annotations that is written: one that the format holds and the data sets have.
        progress: Called after each image of a split with how many are written, and in all.

    Raises:
        UserError: If the format cannot hold a data set or the name of a class, an image or mask cannot be read, or
            the folder cannot be written.
    """
    if kind not in FORMATS.find(format).write:
        raise UserError(f"{format} holds {' or '.join(FORMATS[format].write)}: got a data set of {kind}")
    check_out(folder)
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
            _write_split(dataset, split, partial, format, kind, taken, progress)
        os.replace(partial, folder)
    except OSError as error:
        raise CannotWrite(Path(error.filename or folder), error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_split(
    dataset: Dataset, split: Split, folder: Path, format: str, kind: str, taken: set[str], progress: Progress
) -> None:
    names = _file_names(dataset, taken)
    parts = FORMATS[format].write[kind](dataset, split, names, folder)
    for index, (part, name) in enumerate(zip(parts, names, strict=True)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        _write_image(dataset, index, folder / part / name)
        progress(index + 1, len(names))


def check_out(out: Path) -> None:
    """Raise if a folder is not there for a new data set to be written into."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"the new data set needs a folder of its own: {out} exists and is not empty; choose another"
        )


def _check_classes(classes: set[str], format: str) -> None:
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
        own = re.sub(r"[^\w.\-]", "_", stem_of(path)).lstrip(".") or "image"
        stem, number = own, 1
        while stem.lower() in taken:
            number += 1
            stem = f"{own}-{number}"
        taken.add(stem.lower())
        suffix = path.suffix if path.suffix.lower() in SUFFIXES else ".png"
        names.append(stem + suffix)
    return names


def _save_picture(pixels_CHW: Tensor, name: str, target: Path) -> None:
    """Save grey or red, green and blue of 8 bits, in whatever type they come.

    Raises:
        UserError: If an image is anything else.
    """
    eight = pixels_CHW.to(torch.uint8)
    if len(eight) not in (1, 3) or not torch.equal(eight.to(pixels_CHW.dtype), pixels_CHW):
        raise UserError(
            f"{name} has {len(eight)} bands of {pixels_CHW.dtype}, and {target.suffix} files are written from grey or red, green and blue "
            "of 8 bits; save it as .tif, which is passed on as it is"
        )
    Image.fromarray(eight.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()).save(target)


def _write_image(dataset: Dataset, index: int, target: Path) -> None:
    """Link an image file, copy it where that is not possible, or write pixels as PNG."""
    if not isinstance(dataset, FileImages) or dataset.path(index).suffix != target.suffix:
        _save_picture(dataset.image(index), dataset.record(index).name, target)
        return
    source = dataset.path(index).resolve()
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)
