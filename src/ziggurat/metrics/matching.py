"""Which detection answers for which object of an image, by COCO's rule; curves, quality and confusion rest on it.

Shapes: ``D`` detections and ``N`` objects of one image.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ziggurat.data.detections import Detections
from ziggurat.metrics.coco import GroundTruth

MATCH_IOU = 0.5  # a detection that overlaps an object less does not answer for it
FREE, CROWDED = -1, -2  # of a detection that answers for no object; of one that lies in a crowd


def match(found: Detections, truth: GroundTruth, same_class: bool) -> np.ndarray:
    """Give each detection, the best first, the free object that it overlaps most.

    An object is taken once. A detection that finds no free object, but a crowd, is neither right nor wrong. Of equal
    overlaps the later object is taken, as pycocotools does.

    Args:
        found: Of one image; of equal scores the earlier comes first.
        truth: Of the same image.
        same_class: Whether a detection may take objects of its own class only.

    Returns:
        For each detection the index of its object, or `FREE`, or `CROWDED`; int64, shape ``(D,)``.

    References:
        ``COCOeval.evaluateImg`` of pycocotools, at one IoU threshold.
    """
    crowd = truth.crowd.numpy()
    overlaps_DN = _overlaps(found.boxes_xyxy, truth.boxes_xyxy, crowd)
    if same_class:
        overlaps_DN[found.labels.numpy()[:, None] != truth.labels.numpy()] = 0
    near_DN = overlaps_DN >= MATCH_IOU
    taken = np.full(len(found), FREE, dtype=np.int64)
    free = ~crowd
    order = np.argsort(-found.scores.double().numpy(), kind="stable")
    for detection in order[near_DN[order].any(axis=1)].tolist():  # most detections are near nothing
        candidates = np.flatnonzero(near_DN[detection] & free)[::-1]
        if len(candidates):
            chosen = candidates[overlaps_DN[detection, candidates].argmax()]
            taken[detection], free[chosen] = chosen, False
        elif (near_DN[detection] & crowd).any():
            taken[detection] = CROWDED
    return taken


def at_least(found: Detections, score: float) -> Detections:
    """Return the detections with at least this score."""
    kept = found.scores >= score
    return Detections(found.boxes_xyxy[kept], found.scores[kept], found.labels[kept])


def _overlaps(boxes_D4: Tensor, objects_N4: Tensor, crowd_N: np.ndarray) -> np.ndarray:
    """Return the IoU of each pair, float64, shape ``(D, N)``; with a crowd the share of the detection's area."""
    one, other = boxes_D4.double().numpy()[:, None], objects_N4.double().numpy()[None]
    common = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    inner = common.clip(min=0).prod(axis=2)
    area_D1, area_1N = ((boxes[..., 2:] - boxes[..., :2]).prod(axis=2) for boxes in (one, other))
    outer = np.where(crowd_N, area_D1, area_D1 + area_1N - inner)
    overlaps: np.ndarray = inner / np.maximum(outer, np.finfo(np.float64).tiny)
    return overlaps
