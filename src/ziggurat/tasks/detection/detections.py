"""Found objects, and which of overlapping ones remain."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import nms

FEW = 500  # up to so many detections one call is faster than one for each class


@dataclass(frozen=True)
class Detections:
    """The objects found in one image, the best first.

    Attributes:
        boxes_xyxy: Corners in pixels of the image, float32, shape ``(N, 4)``.
        scores: From 0 to 1, falling, float32, shape ``(N,)``.
        labels: Indices into the class names, int64, shape ``(N,)``.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def suppress(detections: Detections, nms_threshold: float, max_detections: int) -> Detections:
    """Drop each detection that overlaps a better one of its class.

    Deterministic: of equal scores the earlier counts as the better.

    Args:
        detections: In any order.
        nms_threshold: Largest IoU of two detections of a class that both remain.
        max_detections: Most detections that remain.

    Returns:
        What remains, by falling score.
    """
    order = detections.scores.argsort(descending=True, stable=True)
    boxes, scores, labels = (t[order] for t in (detections.boxes_xyxy, detections.scores, detections.labels))
    nms_of_classes = _nms_shifted if len(detections) <= FEW else _nms_by_class
    keep = nms_of_classes(boxes, scores, labels, nms_threshold).sort().values[:max_detections]
    return Detections(boxes[keep], scores[keep], labels[keep])


def _nms_shifted(boxes_N4: Tensor, scores_N: Tensor, labels_N: Tensor, threshold: float) -> Tensor:
    """Return what remains, from one call: each class is moved to a place of its own (exact enough in float64)."""
    if not len(boxes_N4):
        return labels_N
    moved = boxes_N4.to(torch.float64)
    extent = moved.max() - moved.min() + 1
    keep: Tensor = nms(moved + (labels_N * extent)[:, None], scores_N.to(torch.float64), threshold)
    return keep


def _nms_by_class(boxes_N4: Tensor, scores_N: Tensor, labels_N: Tensor, threshold: float) -> Tensor:
    """Return what remains, from a call for each class."""
    order = labels_N.argsort(stable=True)
    counts = torch.unique_consecutive(labels_N[order], return_counts=True)[1].tolist()
    return torch.cat([one[nms(boxes_N4[one], scores_N[one], threshold)] for one in order.split(counts)])
