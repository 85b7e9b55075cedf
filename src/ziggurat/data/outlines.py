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
from ziggurat.data.extents import Extent, Region
from ziggurat.data.file_dataset import FileImages, FileList
from ziggurat.data.packed_strings import PackedStrings

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
        self._bounds: tuple[int, np.ndarray] | None = (
            None  # of the image that was asked for last, if in parts
        )

    def mask(self, index: int) -> Tensor:
        """Draw the mask of image `index`: labels, uint8, shape ``(H, W)``; `IGNORED_PIXEL` where the image holds nothing."""
        return self.mask_window(index, Region.whole(self._size(index)))

    def mask_window(self, index: int, region: Region) -> Tensor:
        """Draw a window of the mask of image `index`, in the memory of the window."""
        place, extent = int(self._place[index]), self._size(index)
        rows = np.arange(self._outlines.ends[place], self._outlines.ends[place + 1])
        if region.size != extent:  # of the outlines of a large image few are looked at
            rows = rows[_meet(self._bounds_of(place, rows, extent), region)]
        shapes = [self._shape(row) for row in rows.tolist()]
        mask_HW = paint(shapes, self._outlines.labels[rows], self._outlines.crowd[rows], *extent, region)
        return self._ignoring(mask_HW, index, region)

    def _shape(self, row: int) -> Outline:
        shape: Outline = json.loads(self._outlines.shapes[row])
        return shape

    def _bounds_of(self, place: int, rows: np.ndarray, extent: Extent) -> np.ndarray:
        """Return the first and last corners of an image's outlines, x and y of each, shape ``(M, 4)``."""
        known = self._bounds
        if known is None or known[0] != place:
            found = [_bounds(self._shape(row), *extent) for row in rows.tolist()]
            known = self._bounds = place, np.array(found, dtype=np.float64).reshape(-1, 4)
        return known[1]


def paint(
    shapes: Sequence[Outline],
    labels: np.ndarray,
    crowd: np.ndarray,
    height: int,
    width: int,
    region: Region | None = None,
) -> Tensor:
    """Draw outlines: crowds first, then objects from the largest to the smallest, as labels, uint8.

    Args:
        shapes: Without fault.
        labels: Of each.
        crowd: Whether each holds a crowd.
        height: Of the image.
        width: Of the image.
        region: What is drawn of the image; None draws all of it.
    """
    region = Region.whole((height, width)) if region is None else region
    mask = np.zeros(region.size, dtype=np.uint8)
    runs = [_run_lengths(shape, height, width) for shape in shapes]
    areas = np.array([lengths[1::2].sum() for lengths in runs], dtype=np.int64)
    for number in np.lexsort((-areas, ~crowd)).tolist():
        found = _inside(runs[number], height, region)
        if found is not None:
            box, inside = found
            mask[box.slices][inside] = IGNORED_PIXEL if crowd[number] else labels[number]
    return torch.from_numpy(mask)


def _bounds(shape: Outline, height: int, width: int) -> tuple[float, float, float, float]:
    """Return the first and the last x and y of an outline."""
    if isinstance(shape, dict):
        x, y, columns, rows = coco_mask.toBbox(run_lengths(shape, height, width)).tolist()
        return x, y, x + columns, y + rows
    xs, ys = ([number for polygon in shape for number in polygon[dim::2]] for dim in (0, 1))
    return min(xs), min(ys), max(xs), max(ys)


def _meet(bounds_M4: np.ndarray, region: Region) -> np.ndarray:
    """Return which outlines may have pixels in a region, by their bounds, bool, shape ``(M,)``; rounding is a pixel at most."""
    (top, left), (bottom, right) = region.start, region.end
    first_x, first_y, last_x, last_y = bounds_M4.T
    meet: np.ndarray = (
        (first_x <= right + 1) & (last_x >= left - 1) & (first_y <= bottom + 1) & (last_y >= top - 1)
    )
    return meet


def _run_lengths(shape: Outline, height: int, width: int) -> np.ndarray:
    """Return the lengths of an outline's runs, of which the second, fourth ... lie within it, column by column, int64."""
    return _numbers(run_lengths(shape, height, width)["counts"])


def _inside(runs: np.ndarray, height: int, region: Region) -> tuple[Region, np.ndarray] | None:
    """Return the box of an object's pixels in a region, in pixels of the region, and which of it are the object's.

    Args:
        runs: As `_run_lengths` gives them.
        height: Of the image.
        region: Of the image.
    """
    bounds = runs.cumsum()
    starts, ends = bounds[:-1:2], bounds[1::2]
    (top, left), (bottom, right) = region.start, region.end
    starts, ends = np.maximum(starts, left * height), np.minimum(ends, right * height)
    starts, ends = starts[starts < ends], ends[starts < ends]
    # a run that goes on in the next column is one for each of them
    spans = (ends - 1) // height - starts // height + 1
    column = (starts // height).repeat(spans) + _count_up(spans)
    first = np.maximum(starts.repeat(spans) - column * height, top)
    last = np.minimum(ends.repeat(spans) - column * height, bottom)
    there = first < last
    if not there.any():
        return None
    column, first, last = column[there], first[there], last[there]
    start, end = (first.min(), column.min()), (last.max(), column.max() + 1)
    box = Region.between(map(int, start), map(int, end))
    steps = np.zeros((box.height + 1, box.width), dtype=np.int8)
    steps[first - box.top, column - box.left] += 1
    steps[last - box.top, column - box.left] -= 1
    return box.seen_from(region.start), steps.cumsum(axis=0, dtype=np.int8)[:-1] > 0


def _count_up(counts: np.ndarray) -> np.ndarray:
    """Return 0, 1, ... for each count, one after the other."""
    found: np.ndarray = np.arange(counts.sum()) - (counts.cumsum() - counts).repeat(counts)
    return found


def _numbers(text: bytes) -> np.ndarray:
    """Return the run lengths of COCO's string, as `_decompressed` does, of one that a decoder has written.

    Example:
        >>> _numbers(b"52203").tolist()
        [5, 2, 2, 2, 5]
    """
    bits = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    lasts = np.flatnonzero(bits & 32 == 0)
    lengths = np.diff(lasts, prepend=-1)
    shifts = 5 * _count_up(lengths)
    starts = lasts - lengths + 1
    numbers: np.ndarray = np.add.reduceat((bits & 31) << shifts, starts) if len(starts) else bits
    numbers -= ((bits[lasts] & 16) >> 4) << (5 * lengths)
    for first in (1, 2):  # each from the fourth on is told from the one before the last
        numbers[first::2] = numbers[first::2].cumsum()
    return numbers


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
