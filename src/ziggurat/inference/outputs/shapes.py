"""Where rows of results lie: rings of corners, in pixels of the image and on the ground; and their well-known binary form.

A box has one ring, a mask a polygon for each of its connected areas, the ring around it first and then those around its holes, and what is
said of a whole image has the image's outline.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ziggurat.data.batch import IGNORED_PIXEL
from ziggurat.data.extents import Extent
from ziggurat.data.readers.opened import Georeference
from ziggurat.inference.outputs.base import ImageResults, Row, Target
from ziggurat.inference.outputs.label_files import open_labels
from ziggurat.inference.outputs.polygons import Ring, signed_area
from ziggurat.inference.outputs.tracing import trace_areas
from ziggurat.visualize.labels import BACKGROUND

BAND = 256  # rows of a mask that are read at once
_POLYGON = 3  # OGC 06-103r4, 8.2.8


class Shape(NamedTuple):
    """One feature.

    Attributes:
        rings: The outer one, then holes.
        label: Of its class; None if it has none.
        score: Of it; None if it has none.
    """

    rings: Sequence[Ring]
    label: int | None
    score: float | None


def shapes_of(results: ImageResults, target: Target) -> Iterator[Shape]:
    """Yield where the rows of an image lie, in pixels of the image, as corners count them: the first pixel lies from 0 to 1."""
    for row in results.rows:
        if target.lies_on == "masks":
            yield from _areas(row, target)
            continue
        ring = box_ring(row["bbox"]) if target.lies_on == "boxes" else outline(results.source.record.extent)
        label = target.label(row) if "category_id" in row else None
        yield Shape([ring], label, row.get("score"))


def box_ring(bbox: Sequence[float]) -> Ring:
    """Return the corners of COCO's left, top, width and height.

    Example:
        >>> box_ring([1, 2, 3, 4])
        [(1, 2), (1, 6), (4, 6), (4, 2), (1, 2)]
    """
    left, top, width, height = bbox
    right, bottom = left + width, top + height
    return [(left, top), (left, bottom), (right, bottom), (right, top), (left, top)]


def outline(extent: Extent) -> Ring:
    """Return the corners of an image."""
    return box_ring([0, 0, extent[1], extent[0]])


def _areas(row: Row, target: Target) -> Iterator[Shape]:
    """Yield the connected areas of a mask; the file is read a few rows at a time."""
    from rasterio.windows import Window

    skipped = {IGNORED_PIXEL} | ({0} if target.classes[0] == BACKGROUND else set())
    with open_labels(row["mask"]) as labels:
        bands = (
            labels.read(1, window=Window(0, top, labels.width, min(BAND, labels.height - top)))
            for top in range(0, labels.height, BAND)
        )
        for area in trace_areas(bands, skipped):
            rings = target.polygons.apply(area.rings)
            if rings:
                yield Shape(rings, area.label, None)


def on_ground(shape: Shape, georeference: Georeference) -> list[Ring]:
    """Return the rings of a feature in units of the CRS."""
    return [[georeference.ground(x, y) for x, y in ring] for ring in shape.rings]


def counterclockwise(ring: Ring, turn: bool = True) -> Ring:
    """Return a ring in mathematical order, or with `turn` False the other way round.

    Example:
        >>> counterclockwise([(0, 0), (0, 1), (1, 0), (0, 0)])
        [(0, 0), (1, 0), (0, 1), (0, 0)]
    """
    return ring if (signed_area(ring) > 0) == turn else ring[::-1]


def binary(rings: Sequence[Ring]) -> bytes:
    """Return a polygon as well-known binary, little-endian."""
    parts = [struct.pack("<BII", 1, _POLYGON, len(rings))]
    for ring in rings:
        parts.append(struct.pack("<I", len(ring)))
        parts.append(struct.pack(f"<{2 * len(ring)}d", *(value for corner in ring for value in corner)))
    return b"".join(parts)


_BOX = np.dtype([("head", "<u1", 9), ("num", "<u4"), ("corners", "<f8", (5, 2))])


def box_binaries(rows: Sequence[Row], georeference: Georeference) -> list[bytes]:
    """Return the polygons of many boxes, on the ground: the bytes that `binary` has for each.

    Args:
        rows: With a ``bbox`` each.
        georeference: Of their image.
    """
    left, top, width, height = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4).T
    right, bottom = left + width, top + height
    x = np.stack([left, left, right, right, left], axis=1)
    y = np.stack([top, bottom, bottom, top, top], axis=1)
    polygons = np.zeros(len(rows), dtype=_BOX)
    polygons["head"] = np.frombuffer(struct.pack("<BII", 1, _POLYGON, 1), dtype=np.uint8)
    polygons["num"] = 5
    polygons["corners"] = np.stack(georeference.ground(x, y), axis=2)
    data, size = polygons.tobytes(), _BOX.itemsize
    return [data[start : start + size] for start in range(0, len(data), size)]
