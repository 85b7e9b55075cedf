"""What `predict` writes of detections: COCO's results."""

from __future__ import annotations

from typing import Any

from ziggurat.data.detections import Detections
from ziggurat.tasks.base import Place


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
