"""Segmentation data sets whose masks are drawn as outlines of objects: polygons and run lengths, as COCO has them.

Of two objects that overlap, the smaller one lies on top: it would be hidden otherwise. Crowds lie beneath all objects
and are ignored.

Shapes: ``H`` rows and ``W`` columns of an image.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as coco_mask
from torch import Tensor

from ziggurat.data.batch import IGNORED_PIXEL
from ziggurat.data.dataset import FileImages, FileList, PackedStrings

# A list of polygons [x1, y1, x2, y2, ...] in pixels, or {"size": [H, W], "counts": run lengths, or a string of them}.
Outline = list[Any] | dict[str, Any]

OUTSIDE_TOLERANCE = 1.0  # pixels that an outline may leave the image by


@dataclass(frozen=True)
class Outlines:
    """The outlines of all images, ordered by image, ``M`` in all.

    Attributes:
        ends: Outlines ``ends[i]`` to ``ends[i + 1]`` belong to image ``i``; int64, shape ``(images + 1,)``.
        labels: uint8, shape ``(M,)``.
        crowd: Whether it holds a crowd rather than one object, bool, shape ``(M,)``.
        shapes: Each outline as JSON: numbers as they are in the file take less room than any object of Python.
    """

    ends: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    shapes: PackedStrings


class OutlineDataset(FileImages):
    """A segmentation data set of image files and outlines; pixels outside of every outline have label 0.

    Args:
        classes: Name of each label; the first is the background.
        category_ids: COCO category id of each label.
        files: The images.
        outlines: The outlines of all images.
    """

    def __init__(
        self, classes: tuple[str, ...], category_ids: tuple[int, ...], files: FileList, outlines: Outlines
    ) -> None:
        super().__init__(classes, category_ids, files)
        self._outlines = outlines

    def mask(self, index: int) -> Tensor:
        """Draw the mask of image `index`: labels, uint8, shape ``(H, W)``."""
        place = self._place[index]
        rows = range(self._outlines.ends[place], self._outlines.ends[place + 1])
        shapes = [json.loads(self._outlines.shapes[row]) for row in rows]
        chosen = slice(rows.start, rows.stop)
        return paint(shapes, self._outlines.labels[chosen], self._outlines.crowd[chosen], *self._size(index))


def paint(
    shapes: Sequence[Outline], labels: np.ndarray, crowd: np.ndarray, height: int, width: int
) -> Tensor:
    """Draw outlines: crowds first, then objects from the largest to the smallest, as labels, uint8, ``(H, W)``."""
    runs = [run_lengths(shape, height, width) for shape in shapes]
    areas = np.array([int(coco_mask.area(run)) for run in runs], dtype=np.int64)
    mask = np.zeros((height, width), dtype=np.uint8)
    for index in np.lexsort((-areas, ~crowd)).tolist():
        inside = np.asarray(coco_mask.decode(runs[index]), dtype=np.bool_)
        mask[inside] = IGNORED_PIXEL if crowd[index] else labels[index]
    return torch.from_numpy(mask)


def outline_fault(shape: object, height: int, width: int) -> str | None:
    """Return what is wrong with an outline of an image of known size, or None.

    A decoder would read beyond its buffers, or need all the memory, for some of what is refused here.
    """
    if isinstance(shape, list):
        if not shape:
            return "it has no polygon"
        return next((fault for polygon in shape if (fault := _polygon_fault(polygon, height, width))), None)
    if not isinstance(shape, dict):
        return "it must be a list of polygons or an object with size and counts"
    if shape.get("size") != [height, width]:
        return f"its size must be [rows, columns] of the image, [{height}, {width}]: got {shape.get('size')}"
    counts = shape.get("counts")
    numbers = _decompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
        return "its counts must be run lengths, whole numbers from 0, or a string of them"
    if sum(numbers) != height * width:
        return f"its run lengths must add up to the {height * width} pixels of the image: got {sum(numbers)}"
    return None


def run_lengths(shape: Outline, height: int, width: int) -> dict[str, Any]:
    """Return an outline that is without fault as the decoder's run lengths."""
    if isinstance(shape, dict):
        counts = shape["counts"]
        numbers = _decompressed(counts) if isinstance(counts, str) else counts
        whole = {"size": [height, width], "counts": numbers}
        return dict(coco_mask.frPyObjects(whole, height, width))
    polygons = [[float(number) for number in polygon] for polygon in shape]
    return dict(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))


def _polygon_fault(polygon: object, height: int, width: int) -> str | None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        found = f"{len(polygon)} numbers" if isinstance(polygon, list) else repr(polygon)[:80]
        return f"a polygon must have three corners or more, x and y of each: got {found}"
    for place, number in enumerate(polygon):
        if type(number) not in (int, float) or not math.isfinite(number):
            return f"a polygon must have numbers: got {number!r}"
        extent = (width, height)[place % 2]
        if not -OUTSIDE_TOLERANCE <= number <= extent + OUTSIDE_TOLERANCE:
            return f"a polygon must lie in the image, which has {width} x {height} pixels: got {'xy'[place % 2]}={number:g}"
    return None


def _decompressed(text: str) -> list[int] | None:
    """Return the run lengths of COCO's string, or None if it is none.

    Six bits of a number are a character (five of the number, one for more), lowest first; from the fourth on each
    is the difference to the one before the last.

    Example:
        >>> _decompressed("52203")
        [5, 2, 2, 2, 5]
    """
    numbers: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # negative
            value -= 1 << shift
        numbers.append(value + numbers[-2] if len(numbers) > 2 else value)
        value = shift = 0
    return numbers if not shift else None
