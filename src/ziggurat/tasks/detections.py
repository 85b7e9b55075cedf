"""Found objects, and which of overlapping ones remain."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import nms


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
    by_class = labels.argsort(stable=True)
    counts = torch.unique_consecutive(labels[by_class], return_counts=True)[1].tolist()
    kept = [one[nms(boxes[one], scores[one], nms_threshold)] for one in by_class.split(counts) if len(one)]
    keep = torch.cat(kept).sort().values[:max_detections] if kept else by_class
    return Detections(boxes[keep], scores[keep], labels[keep])
