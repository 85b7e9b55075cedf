"""Precision over recall, for each class, of detectors and classifiers.

Shapes: ``N`` images or detections, ``K`` classes, ``R`` = 101 recalls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ziggurat.data.detections import Detections
from ziggurat.metrics.coco import GroundTruth
from ziggurat.metrics.matching import CROWDED, match

RECALLS = np.linspace(0, 1, 101)  # those of COCO


@dataclass(frozen=True)
class Curve:
    """Precision over recall of one class.

    Attributes:
        label: The class.
        precision: The best precision at this recall or a higher one, at each of `RECALLS`; 0 where no threshold
            recalls so much; float64, shape ``(R,)``.
        average_precision: In [0, 1].
    """

    label: int
    precision: np.ndarray
    average_precision: float


def detection_curves(
    truth: Sequence[GroundTruth], found: Sequence[Detections], num_classes: int
) -> list[Curve]:
    """Return the curve at IoU 0.5 of each class that has an object; the average precision is COCO's at this IoU.

    Args:
        truth: Of each image.
        found: Of each image.
        num_classes: ``K``.

    References:
        ``COCOeval.accumulate`` of pycocotools, at one IoU threshold.
    """
    taken = [match(d, objects, same_class=True) for objects, d in zip(truth, found, strict=True)]
    matched = np.concatenate([np.zeros(0, dtype=np.int64), *taken])
    counted = matched != CROWDED
    scores = torch.cat([torch.zeros(0), *(one.scores for one in found)]).double().numpy()[counted]
    labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(d.labels for d in found)]).numpy()[counted]
    right = matched[counted] >= 0
    num_objects = count_objects(truth, num_classes)
    curves = []
    for label in np.flatnonzero(num_objects).tolist():
        mine = np.flatnonzero(labels == label)
        order = mine[np.argsort(-scores[mine], kind="stable")]
        hits = right[order].cumsum()
        precision = hits / np.arange(1, len(hits) + 1)
        curve = envelope(hits / num_objects[label], precision)
        curves.append(Curve(label, curve, float(curve.mean())))
    return curves


def count_objects(truth: Sequence[GroundTruth], num_classes: int) -> np.ndarray:
    """Return the objects of each class that are no crowds, int64, shape ``(K,)``."""
    labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(t.labels[~t.crowd] for t in truth)])
    return torch.bincount(labels, minlength=num_classes).numpy()


def classification_curves(probabilities_NK: Tensor, labels_N: Tensor) -> list[Curve]:
    """Return the curve of each class that has an image: this class against all others."""
    curves = []
    for label in labels_N.unique().tolist():
        recall, precision = precision_recall(probabilities_NK[:, label].numpy(), (labels_N == label).numpy())
        average = float((np.diff(recall, prepend=0) * precision).sum())
        curves.append(Curve(label, envelope(recall, precision), average))
    return curves


def precision_recall(scores_N: np.ndarray, positive_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return recall and precision at each threshold that tells two scores apart, from the highest on.

    Args:
        scores_N: Of each image.
        positive_N: Whether it belongs to the class; one at least does.

    Returns:
        Recall (rising) and precision, float64, as many as there are different scores.

    Example:
        >>> recall, precision = precision_recall(np.array([0.9, 0.8, 0.8, 0.1]), np.array([1, 1, 0, 0], dtype=bool))
        >>> recall.tolist(), precision.round(2).tolist()
        ([0.5, 1.0, 1.0], [1.0, 0.67, 0.5])
    """
    order = np.argsort(-scores_N, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores_N[order]) != 0, True))  # of equal scores, all or none
    hits = positive_N[order].cumsum()[last]
    return hits / positive_N.sum(), hits / (last + 1)


def envelope(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Return the best precision at each of `RECALLS` or a higher recall, 0 beyond the last; shape ``(R,)``."""
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    reached: np.ndarray = best[np.searchsorted(recall, RECALLS, side="left")]
    return reached
