"""Which of overlapping detections remain."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from ziggurat.data.detections import Detections
from ziggurat.tasks.detection.crowds import suppress_crowd

FEW = 500  # up to so many detections one call is faster than one for each class
CROWD = 8192  # of a class: from so many on only neighbours are compared


def suppress(detections: Detections, nms_threshold: float, max_detections: int | None) -> Detections:
    """Drop each detection that overlaps a better one of its class.

    Deterministic: of equal scores the earlier counts as the better.

    Args:
        detections: In any order.
        nms_threshold: Largest IoU of two detections of a class that both remain.
        max_detections: Most detections that remain; None for any number.

    Returns:
        What remains, by falling score, with what the limit has cut off, now or before.
    """
    order = detections.scores.argsort(descending=True, stable=True)
    boxes, scores, labels = (t[order] for t in (detections.boxes_xyxy, detections.scores, detections.labels))
    nms_of_classes = _nms_shifted if len(detections) <= FEW else _nms_by_class
    apart = nms_of_classes(boxes, scores, labels, nms_threshold).sort().values
    keep = apart[:max_detections]
    cut = len(apart) - len(keep)
    best_cut = max(detections.best_cut, float(scores[apart[len(keep)]]) if cut else 0.0)
    num_cut = detections.num_cut + cut
    return Detections(boxes[keep], scores[keep], labels[keep], num_cut, best_cut, detections.candidates_cut)


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
    # what a class has lies together: views, where an index of its own for each would cost more than its call
    apart = zip(
        *(values[order].split(counts) for values in (boxes_N4, scores_N)), order.split(counts), strict=True
    )
    return torch.cat([places[_nms(boxes, scores, threshold)] for boxes, scores, places in apart])


def _nms(boxes_N4: Tensor, scores_N: Tensor, threshold: float) -> Tensor:
    """Return what remains of a class, whose scores fall."""
    if len(boxes_N4) < CROWD or boxes_N4.device.type != "cpu" or not bool(boxes_N4.isfinite().all()):
        keep: Tensor = nms(boxes_N4, scores_N, threshold)
        return keep
    return suppress_crowd(boxes_N4, scores_N, threshold)
