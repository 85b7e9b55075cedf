"""How good the prediction of each image is, in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ziggurat.data.detections import PICTURE_SCORE, Detections
from ziggurat.metrics.coco import GroundTruth
from ziggurat.metrics.matching import CROWDED, at_least, match


def detection_quality(truth: Sequence[GroundTruth], found: Sequence[Detections]) -> Tensor:
    """Return the F1 of each image's detections: the harmonic mean of precision and recall at IoU 0.5.

    Those count that a picture would show (`PICTURE_SCORE`), each for an object of its class, as `match` says. An image
    without objects and without detections is perfect.

    Args:
        truth: Of each image.
        found: Of each image.

    Returns:
        In [0, 1], float64, shape ``(images,)``.
    """
    values = []
    for objects, detections in zip(truth, found, strict=True):
        shown = at_least(detections, PICTURE_SCORE)
        taken = match(shown, objects, same_class=True)
        # F1 = 2 TP / (2 TP + FP + FN); what lies in a crowd is no detection, and a crowd no object
        everything = int((taken != CROWDED).sum()) + int((~objects.crowd).sum())
        values.append(2 * int((taken >= 0).sum()) / everything if everything else 1.0)
    return torch.tensor(values, dtype=torch.float64)


def classification_quality(probabilities_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Return the probability of each image's true class, in [0, 1], float64, shape ``(N,)``; 0 for no number."""
    return probabilities_NK.double().gather(1, labels_N[:, None]).squeeze(1).nan_to_num(nan=0.0)
