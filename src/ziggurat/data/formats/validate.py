"""Joins annotations to image files and validates them: what is missing, where boxes lie, which classes there are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ziggurat.data.faults import Fault
from ziggurat.data.files import entries_of
from ziggurat.data.formats.finding import FOUND_BY_ITS_END, ImageFinder, why_missing
from ziggurat.data.formats.table import BoxRow, ImageRow, Source, Table
from ziggurat.data.outlines import Outline, outline_fault
from ziggurat.data.readers.registry import image_suffixes
from ziggurat.errors import nearest

OUTSIDE_TOLERANCE = 1.0  # pixels: annotators round, and some tools count from 1
NO_OBJECT = "an annotation with the box 0, 0, 0, 0 stands for no object"
OVERHANG = "a box ends up to a pixel outside of its image, and is cut to it in training"
_HINTS = 20  # missing images for which the nearest name is searched; the search is slow


@dataclass(frozen=True)
class Placed:
    """Where the images of a table are.

    Attributes:
        paths: File of each image, or None where it is missing.
        faults: The missing ones, and files that are named twice.
    """

    paths: list[Path | None]
    faults: list[Fault]


def place_images(table: Table) -> Placed:
    """Find the file of each image of a table; what had to be guessed is noted in it."""
    paths: list[Path | None] = []
    faults: list[Fault] = []
    first: dict[str, ImageRow] = {}
    names: list[str] | None = None
    finder = ImageFinder(table.source)
    for index, row in enumerate(table.images):
        found = finder.find(row.name, row.stems)
        paths.append(None if found.path is None else Path(found.path))
        if found.path is None:
            names = _names(table.source) if names is None else names
            hint = f"; {nearest(Path(row.name).name, names)}" if names and len(faults) < _HINTS else ""
            fault = why_missing(table.source, row.name, found, hint)
            faults.append(Fault(str(row.file), row.place, fault, "image", index))
            continue
        if found.is_guess:
            where = os.path.relpath(found.path, table.source.root)
            table.note(FOUND_BY_ITS_END, f"{row.name!r} at {where}")
        other = first.setdefault(found.path, row)
        if other is not row:
            fault = f"duplicate image: {row.name!r} is listed twice"
            faults.append(Fault(str(row.file), row.place, fault, "remark"))
    return Placed(paths, faults)


def _names(source: Source) -> list[str]:
    """Return the names of the images that lie where images are looked for."""
    found = {entry.name for folder in source.folders for entry in entries_of(folder)}
    return sorted(name for name in found if name.lower().endswith(image_suffixes()))


def validate_boxes(table: Table, sizes: np.ndarray) -> list[Fault]:
    """Return the faults of boxes: corners that are no numbers, no area, or outside of an image of known size."""
    boxes = corners(table, sizes)
    image = np.array([row.image for row in table.boxes], dtype=np.int64)
    extent = sizes[image][:, [1, 0]].astype(np.float64)
    broken = ~np.isfinite(boxes).all(axis=1)
    flat = ~broken & ~(boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    beyond = (boxes[:, :2] < -OUTSIDE_TOLERANCE) | (boxes[:, 2:] > extent + OUTSIDE_TOLERANCE)
    inside = np.minimum(boxes[:, 2:], extent) > np.maximum(boxes[:, :2], 0)  # some of it lies in the image
    outside = ~broken & ~flat & (beyond.any(axis=1) | ~inside.all(axis=1)) & (extent > 0).all(axis=1)
    faults = []
    for index in np.flatnonzero(broken | flat | outside).tolist():
        row = table.boxes[index]
        picture, (rows, columns) = table.images[row.image], sizes[row.image].tolist()
        shown = ", ".join(f"{value:g}" for value in boxes[index])
        box = f"({shown}) in {picture.name!r}"
        if broken[index]:
            fault = f"box not finite: xmin, ymin, xmax, ymax are {box}"
        elif flat[index]:
            fault = f"box without area: xmin, ymin, xmax, ymax are {box}"
        else:
            fault = f"box outside the image: xmin, ymin, xmax, ymax are {box}, which has {columns} x {rows} pixels"
        faults.append(Fault(str(picture.file), row.place, fault, "annotation", index))
    return faults


def drop_empty_rows(table: Table) -> None:
    """Drop annotations that stand for no object: a box of four zeros, which tools leave where an object was deleted."""
    if table.unit != "pixel":
        return
    empty = [row for row in table.boxes if row.outline is None and not any(row.box_xyxy)]
    for row in empty:
        table.note(NO_OBJECT, f"{table.images[row.image].name}, {row.place}")
    if empty:
        dropped = set(map(id, empty))
        table.boxes = [row for row in table.boxes if id(row) not in dropped]


def note_overhang(table: Table, sizes: np.ndarray) -> None:
    """Note boxes that end up to a pixel outside of their image, whose size is known: objects are cut to it."""
    boxes = corners(table, sizes)
    image = np.array([row.image for row in table.boxes], dtype=np.int64)
    extent = sizes[image][:, [1, 0]]
    beyond = (boxes[:, :2] < 0) | (boxes[:, 2:] > extent * (1 + 1e-6))  # float32's rounding is nothing to say
    far = (boxes[:, :2] < -OUTSIDE_TOLERANCE) | (
        boxes[:, 2:] > extent + OUTSIDE_TOLERANCE
    )  # these are faults
    noted = beyond.any(axis=1) & ~far.any(axis=1) & (extent > 0).all(axis=1)
    for index in np.flatnonzero(noted).tolist():
        row = table.boxes[index]
        table.note(OVERHANG, f"{table.images[row.image].name}, {row.place}")


def doubled_boxes(table: Table) -> list[Fault]:
    """Return the boxes that are there twice in an image, with the same class: merged exports have them."""
    first: dict[tuple[object, ...], BoxRow] = {}
    faults = []
    for row in table.boxes:
        other = first.setdefault((row.image, row.box_xyxy, row.category, row.crowd), row)
        if other is not row and other.outline == row.outline:
            picture = table.images[row.image]
            where = (
                f"{row.category!r} in {picture.name!r}, as {other.place}"
                if other.place is not None
                else f"{row.category!r}"
            )
            fault = f"doubled annotation: the same box of {where}; keep one"
            faults.append(Fault(str(picture.file), row.place, fault, "remark"))
    return faults


def corners(table: Table, sizes: np.ndarray) -> np.ndarray:
    """Return the corners of all boxes in pixels, float64, shape ``(M, 4)``.

    Those too large for float32 are infinite. Where boxes are shares of an image whose size is unknown, they stay so.
    """
    boxes = np.array([row.box_xyxy for row in table.boxes], dtype=np.float64).reshape(-1, 4)
    if table.unit == "image":
        image = np.array([row.image for row in table.boxes], dtype=np.int64)
        boxes *= np.maximum(sizes[image][:, [1, 0, 1, 0]], 1)
    boxes[np.abs(boxes) > np.finfo(np.float32).max] = np.inf
    return boxes


def outline_in_pixels(table: Table, row: BoxRow, size: Sequence[int]) -> Outline | None:
    """Return the outline of an object in pixels of its image, whose rows and columns are `size`."""
    if row.outline is None or table.unit == "pixel":
        return row.outline
    scale = (size[1], size[0])
    return [[value * scale[place % 2] for place, value in enumerate(part)] for part in row.outline]


def validate_outlines(table: Table, sizes: np.ndarray) -> list[Fault]:
    """Return the faults of outlines in images of known size."""
    faults = []
    for index, row in enumerate(table.boxes):
        height, width = sizes[row.image].tolist()
        outline = outline_in_pixels(table, row, (height, width))
        fault = outline_fault(outline, height, width) if outline is not None and height else None
        if fault is not None:
            file = str(table.images[row.image].file)
            faults.append(Fault(file, row.place, f"unreadable outline: {fault}", "annotation", index))
    return faults


def validate_missing_outlines(table: Table) -> list[Fault]:
    """Return a fault for each object without an outline: nothing says which pixels it has."""
    fault = "object without outline: it has a box only; draw its outline, or give --task detect"
    return [
        Fault(str(table.images[row.image].file), row.place, fault, "annotation", index)
        for index, row in enumerate(table.boxes)
        if row.outline is None
    ]
