"""How many objects of each class an image has, and how many were found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ziggurat.data.detections import Detections
from ziggurat.metrics.coco import GroundTruth
from ziggurat.metrics.matching import at_least


@dataclass(frozen=True)
class Counts:
    """Objects of each image and class.

    Attributes:
        least_score: Of detections that are counted.
        annotated: int64, shape ``(images, K)``; crowds are not counted.
        found: int64, shape ``(images, K)``.
    """

    least_score: float
    annotated: np.ndarray
    found: np.ndarray

    def numbers(self) -> dict[str, float]:
        """Return both sums, and the mean over images of how far the number found is from the number annotated."""
        wrong = np.abs(self.found.sum(axis=1) - self.annotated.sum(axis=1))
        return {
            "least_score": self.least_score,
            "annotated": int(self.annotated.sum()),
            "found": int(self.found.sum()),
            "mean_difference": float(wrong.mean()) if len(wrong) else 0.0,
        }


def count_by_image(
    truth: Sequence[GroundTruth], found: Sequence[Detections], num_classes: int, least_score: float
) -> Counts:
    """Count the objects of each image and class.

    Args:
        truth: Of each image.
        found: Of each image.
        num_classes: ``K``.
        least_score: Of detections that are counted.
    """
    annotated = [torch.bincount(one.labels[~one.crowd], minlength=num_classes) for one in truth]
    counted = [torch.bincount(at_least(one, least_score).labels, minlength=num_classes) for one in found]
    empty = torch.zeros((0, num_classes), dtype=torch.int64)
    return Counts(
        least_score,
        (torch.stack(annotated) if annotated else empty).numpy(),
        (torch.stack(counted) if counted else empty).numpy(),
    )
