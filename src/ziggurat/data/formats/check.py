"""Looks for every fault of a data set: what ``ziggurat check`` prints."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
import torch

from ziggurat.config import DigitsConfig
from ziggurat.data.digits import DigitScenes
from ziggurat.data.formats.judge import declared_classes, judge_boxes, judge_classes, place_images
from ziggurat.data.formats.opening import emptiness, read_table
from ziggurat.data.formats.recognise import recognise
from ziggurat.data.formats.table import Fault, Summary, Table
from ziggurat.data.images import read_image
from ziggurat.errors import UserError

_FEW = 32  # images that one process decodes before others are worth starting


def find_faults(path: str, max_pixels: int) -> tuple[list[Fault], Summary]:
    """Return every fault of a data set, in all its splits; every image is decoded.

    Args:
        path: A folder, an annotation file, or ``digits``.
        max_pixels: Images with more pixels are a fault.

    Raises:
        UserError: If there is no such data set or none is recognised.
    """
    if path == "digits":
        return [], _digits_summary()
    if not path:
        raise UserError("no data set is given: name a folder, an annotation file, or 'digits'")
    sources = recognise(Path(path))
    if Path(path).is_file():
        sources = {"train": sources["train"]}  # one file serves as both splits; its faults are listed once
    tables = {split: read_table(source) for split, source in sources.items()}
    classes = declared_classes(next(iter(tables.values())))
    faults: list[Fault] = []
    for table in tables.values():
        faults += _table_faults(table, tuple(classes), max_pixels)
    splits: dict[str, dict[str, int]] = {
        split: {"images": len(table.images), "annotations": len(table.boxes)}
        for split, table in tables.items()
    }
    return faults, _summary(next(iter(sources.values())).format, splits, tuple(classes))


def _summary(format: str, splits: dict[str, dict[str, int]], classes: tuple[str, ...]) -> Summary:
    images = sum(counts["images"] for counts in splits.values())
    annotations = sum(counts["annotations"] for counts in splits.values())
    return Summary(format, images, annotations, splits, classes)


def _digits_summary() -> Summary:
    scenes = [DigitScenes(DigitsConfig(), "train"), DigitScenes(DigitsConfig(), "val")]
    splits: dict[str, dict[str, int]] = {
        dataset.split: {
            "images": len(dataset),
            "annotations": sum(len(dataset.objects(index)) for index in range(len(dataset))),
        }
        for dataset in scenes
    }
    return _summary("digits", splits, scenes[0].classes)


def _table_faults(table: Table, classes: tuple[str, ...], max_pixels: int) -> list[Fault]:
    placed = place_images(table)
    faults = [*table.faults, *table.remarks, *placed.faults, *placed.remarks]
    sizes = np.zeros((len(table.images), 2), dtype=np.int64)
    found = [(index, path) for index, path in enumerate(placed.paths) if path is not None]
    for (index, path), size in zip(found, _decoded([path for _, path in found], max_pixels), strict=True):
        row = table.images[index]
        if isinstance(size, str):
            faults.append(Fault(str(path), row.place, f"undecodable image: {size}"))
        elif row.size is not None and row.size != size:
            hint = "; turn the image upright, its EXIF does it now" if row.size == size[::-1] else ""
            fault = (
                f"size mismatch: the image {row.name!r} has {size[1]} x {size[0]} pixels, "
                f"the annotation says {row.size[1]} x {row.size[0]}{hint}"
            )
            faults.append(Fault(str(row.file), row.place, fault))
        sizes[index] = row.size or (0, 0) if isinstance(size, str) else size
    faults += judge_boxes(table, sizes)
    faults += judge_classes(table, classes)
    return faults + ([] if table.faults else emptiness(table))


def _decoded(paths: list[Path], max_pixels: int) -> Iterable[tuple[int, int] | str]:
    """Return rows and columns of each image, or why it cannot be decoded."""
    if len(paths) <= _FEW:
        return map(_decode, paths, repeat(max_pixels))
    processes = min(len(os.sched_getaffinity(0)), len(paths) // _FEW + 1)
    with ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("fork"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:
        return list(pool.map(_decode, paths, repeat(max_pixels), chunksize=8))


def _decode(path: Path, max_pixels: int) -> tuple[int, int] | str:
    try:
        image = read_image(path, max_pixels)
    except UserError as error:
        return str(error)
    return image.shape[1], image.shape[2]
