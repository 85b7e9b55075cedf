"""COCO's detection metrics, by faster-coco-eval.

The number of detections that count is a parameter: COCO's own 100 an image would cut scenes of hundreds of objects.

References:
    Lin et al., Microsoft COCO: Common Objects in Context, 2014; the metrics: https://cocodataset.org/#detection-eval
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor

from ziggurat.data.detections import Detections

AREAS = ("small", "medium", "large")  # less than 32**2 pixels, less than 96**2, and larger


@dataclass(frozen=True)
class GroundTruth:
    """The annotations of one image.

    Attributes:
        boxes_xyxy: Corners in pixels of the image, shape ``(N, 4)``.
        labels: Indices into the class names, shape ``(N,)``.
        areas: Of the objects in pixels, shape ``(N,)``: says whether an object is small, medium or large.
        crowd: Whether a box holds a crowd rather than one object, bool, shape ``(N,)``: what is found in it is
            neither right nor wrong.
    """

    boxes_xyxy: Tensor
    labels: Tensor
    areas: Tensor
    crowd: Tensor


def coco_metrics(
    truth: Sequence[GroundTruth],
    found: Sequence[Detections],
    classes: Sequence[str],
    max_detections: int,
) -> dict[str, Any]:
    """Compare what was found with what is there.

    Args:
        truth: Of each image.
        found: Of each image, the best first.
        classes: The name of each label.
        max_detections: Best detections of each image and class that count.

    Returns:
        From names to numbers in [0, 1], or None where there is no object to find:

        - ``map``: average precision, the mean over the IoU thresholds 0.50, 0.55 ... 0.95 and the classes;
          ``map50`` and ``map75`` at one threshold
        - ``map_small``, ``map_medium``, ``map_large``: by the object's area
        - ``recall``: share of the objects that are found, the mean over the same thresholds and classes;
          ``recall_small``, ``recall_medium``, ``recall_large``
        - ``map_per_class`` and ``map50_per_class``: from the class's name to its ``map`` and ``map50``

        Classes without an object are left out of every mean.

    Raises:
        ValueError: If `truth` and `found` differ in length.
    """
    if len(truth) != len(found):
        raise ValueError(f"one entry an image is needed in both: got {len(truth)} and {len(found)}")
    if not len(truth):
        precision, recall = (
            np.full((10, 101, len(classes), 4, 1), -1.0),
            np.full((10, len(classes), 4, 1), -1.0),
        )
    else:
        precision, recall = _evaluate(truth, found, classes, max_detections)
    metrics: dict[str, Any] = {
        "map": _mean(precision[:, :, :, 0]),
        "map50": _mean(precision[0, :, :, 0]),
        "map75": _mean(precision[5, :, :, 0]),
    }
    metrics |= {f"map_{area}": _mean(precision[:, :, :, n]) for n, area in enumerate(AREAS, start=1)}
    metrics["recall"] = _mean(recall[:, :, 0])
    metrics |= {f"recall_{area}": _mean(recall[:, :, n]) for n, area in enumerate(AREAS, start=1)}
    metrics["map_per_class"] = {name: _mean(precision[:, :, k, 0]) for k, name in enumerate(classes)}
    metrics["map50_per_class"] = {name: _mean(precision[0, :, k, 0]) for k, name in enumerate(classes)}
    return metrics


def _evaluate(
    truth: Sequence[GroundTruth], found: Sequence[Detections], classes: Sequence[str], max_detections: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return precision and recall, -1 where there is no object.

    Returns:
        Shapes ``(10, 101, classes, 4, 1)`` and ``(10, classes, 4, 1)``: IoU threshold, recall threshold, class,
        area (all, small, medium, large), limit of detections.
    """
    expected = COCO(_ground_truth_of_coco(truth, classes))
    evaluation = COCOeval_faster(expected, expected.loadRes(_results_of_coco(found)), iouType="bbox")
    evaluation.params.maxDets = [max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])


def _ground_truth_of_coco(truth: Sequence[GroundTruth], classes: Sequence[str]) -> dict[str, Any]:
    """Return the annotations as COCO's JSON has them; ids count from 1 (0 stands for 'none' in the library)."""
    annotations: list[dict[str, Any]] = []
    for image, one in enumerate(truth, start=1):
        columns = (_boxes_xywh(one.boxes_xyxy), one.labels.tolist(), one.areas.tolist(), one.crowd.tolist())
        for box, label, area, crowd in zip(*columns, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    return {
        "info": {},
        "images": [{"id": image} for image in range(1, len(truth) + 1)],
        "categories": [{"id": label, "name": name} for label, name in enumerate(classes, start=1)],
        "annotations": annotations,
    }


def _results_of_coco(found: Sequence[Detections]) -> list[dict[str, Any]]:
    return [
        {"image_id": image, "category_id": label + 1, "bbox": box, "score": score}
        for image, one in enumerate(found, start=1)
        for box, score, label in zip(
            _boxes_xywh(one.boxes_xyxy), one.scores.tolist(), one.labels.tolist(), strict=True
        )
    ]


def _boxes_xywh(boxes_xyxy: Tensor) -> list[list[float]]:
    boxes = boxes_xyxy.double().reshape(-1, 4)
    xywh: list[list[float]] = boxes.sub(boxes.roll(2, dims=1) * boxes.new_tensor([0, 0, 1, 1])).tolist()
    return xywh


def _mean(values: np.ndarray) -> float | None:
    """Return the mean over what is defined, or None if nothing is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
