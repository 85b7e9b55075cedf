"""What `predict` writes of detections: COCO's results, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ziggurat.data.detections import Detections
from ziggurat.tasks.base import Place, ResultTable


def coco_rows(detections: Detections, place: Place) -> list[dict[str, Any]]:
    """Return every detection of an image as COCO's results have it, with the names of its image and class.

    Boxes are left, top, width and height in pixels; numbers are the shortest that read back as the same float32.
    """
    boxes = detections.boxes_xyxy.clone()
    boxes[:, 2:] -= boxes[:, :2]
    columns = (boxes.numpy(), detections.scores.numpy(), detections.labels.tolist())
    return [
        {
            **place.facts,
            "category_id": place.category_ids[label],
            "category": place.classes[label],
            "bbox": [float(str(value)) for value in box],
            "score": float(str(score)),
        }
        for box, score, label in zip(*columns, strict=True)
    ]


def box_table(rows: Sequence[dict[str, Any]]) -> ResultTable:
    """Return a line for each box: corners in pixels of the upright image, in the columns of our CSV of annotations, and its score."""
    columns = ("image_path", "xmin", "ymin", "xmax", "ymax", "label", "score")
    return ResultTable(columns, map(_line, rows))


def _line(row: dict[str, Any]) -> list[Any]:
    x, y, width, height = (np.float32(value) for value in row["bbox"])
    return [row["file_name"], x, y, x + width, y + height, row["category"], row["score"]]
