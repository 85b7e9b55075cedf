"""How good the prediction of each image is, and which are the best and the worst."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ziggurat.metrics.coco import GroundTruth
from ziggurat.report.matching import CROWDED, at_least, match
from ziggurat.tasks.detection.detections import Detections
from ziggurat.visualize.boxes import PICTURE_SCORE

MAX_TIED = 64  # images of equal quality that are looked at, to find those that show most


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


def best_and_worst(
    quality: Tensor, richness: Callable[[int], int], count: int
) -> tuple[list[int], list[int]]:
    """Choose images to show; no image is both, unless there is one only.

    Of images of equal quality those are taken that show most: eight empty images, all perfect, would tell nothing.

    Args:
        quality: Of each image, shape ``(images,)``.
        richness: How much there is on an image, such as its objects.
        count: Most images of each kind.

    Returns:
        The best, from the best on; and the worst, from the worst on.

    Example:
        >>> best_and_worst(torch.tensor([0.5, 1.0, 0.0, 0.7, 1.0, 1.0]), [1, 2, 3, 4, 5, 6].__getitem__, count=2)
        ([5, 4], [2, 0])
    """
    count = min(count, max(1, len(quality) // 2))
    best = _first(-quality, richness, count, set())
    worst = _first(quality, richness, count, set(best) if len(quality) > 1 else set())
    return best, worst


def _first(key: Tensor, richness: Callable[[int], int], count: int, others: set[int]) -> list[int]:
    """Return the images with the smallest keys; of equal ones the richest, then the earliest."""
    values = key.tolist()
    order = [index for index in key.argsort(stable=True).tolist() if index not in others]
    last = values[order[:count][-1]]
    sure = [index for index in order if values[index] < last]
    tied = [index for index in order if values[index] == last][: max(MAX_TIED, count)]
    chosen = [*sure, *sorted(tied, key=lambda index: -richness(index))]
    return chosen[:count]
