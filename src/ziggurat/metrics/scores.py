"""Precision, recall and F1 over the score from which on a prediction counts, and the score at which F1 is best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from ziggurat.data.detections import Detections
from ziggurat.metrics.coco import GroundTruth
from ziggurat.metrics.curves import count_objects
from ziggurat.metrics.matching import CROWDED, match

CANDIDATES = np.linspace(
    0, 1, 1001
)  # scores that are tried: a best score of three digits is one that is written down


class BestScore(TypedDict):
    """The least score with the best F1, and what comes of it."""

    score: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ScoreCurve:
    """What comes of each least score.

    Attributes:
        scores: Least scores, rising, float64, shape ``(S,)``.
        precision: Share of those predictions that are right, of those with at least this score; NaN where there is none.
        recall: Share of what is there that they find.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    @property
    def f1(self) -> np.ndarray:
        """The harmonic mean of precision and recall, 0 where both are 0."""
        both = np.nan_to_num(self.precision) + self.recall
        means: np.ndarray = 2 * np.nan_to_num(self.precision) * self.recall / np.where(both > 0, both, 1)
        return means

    @property
    def best(self) -> int:
        """The place of the best F1; of equal ones the middle of the first run of them, far from what changes it."""
        f1 = self.f1
        first = int(f1.argmax())
        same = f1[first:] == f1[first]
        run = len(same) if same.all() else int(same.argmin())
        return first + (run - 1) // 2

    def numbers(self) -> BestScore | None:
        """Return the best score, with precision, recall and F1 there; None where nothing is right at any score."""
        place = self.best
        if not self.f1[place]:
            return None
        return {
            "score": float(self.scores[place]),
            "precision": float(self.precision[place]),
            "recall": float(self.recall[place]),
            "f1": float(self.f1[place]),
        }


def score_curve(scores_N: np.ndarray, right_N: np.ndarray, num_objects: int) -> ScoreCurve:
    """Return precision and recall at each least score.

    Args:
        scores_N: Of each prediction.
        right_N: Whether it is right.
        num_objects: What is there to be found, at least 1.

    Example:
        >>> curve = score_curve(np.array([0.9, 0.6, 0.3]), np.array([True, True, False]), num_objects=2)
        >>> curve.numbers()
        {'score': 0.45, 'precision': 1.0, 'recall': 1.0, 'f1': 1.0}
    """
    order = np.argsort(scores_N, kind="stable")
    rising, right = scores_N[order], right_N[order].astype(np.int64)
    below = np.searchsorted(rising, CANDIDATES, side="left")  # predictions that do not count
    counted = len(rising) - below
    hits = right.sum() - np.append(0, right.cumsum())[below]
    return ScoreCurve(
        CANDIDATES, np.where(counted > 0, hits / np.maximum(counted, 1), np.nan), hits / num_objects
    )


def detection_scores(truth: Sequence[GroundTruth], found: Sequence[Detections]) -> ScoreCurve | None:
    """Return the curve of all classes together at IoU 0.5; None where there is no object.

    Args:
        truth: Of each image.
        found: Of each image.
    """
    scores, right, _ = _counted(truth, found)
    num_objects = sum(int((~objects.crowd).sum()) for objects in truth)
    return score_curve(scores, right, num_objects) if num_objects else None


def detection_scores_by_class(
    truth: Sequence[GroundTruth], found: Sequence[Detections], num_classes: int
) -> list[BestScore | None]:
    """Return the best score of each class by itself at IoU 0.5; None where it has no object, or nothing is right.

    Args:
        truth: Of each image.
        found: Of each image.
        num_classes: How many.
    """
    scores, right, labels = _counted(truth, found)
    num_objects = count_objects(truth, num_classes).tolist()
    return [
        score_curve(scores[labels == label], right[labels == label], number).numbers() if number else None
        for label, number in enumerate(num_objects)
    ]


def _counted(
    truth: Sequence[GroundTruth], found: Sequence[Detections]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return score, whether it is right, and label of each detection of all images but those in crowds."""
    matched = [match(one, objects, same_class=True) for objects, one in zip(truth, found, strict=True)]
    taken = np.concatenate([np.zeros(0, dtype=np.int64), *matched])
    scores = torch.cat([torch.zeros(0), *(one.scores for one in found)]).double().numpy()
    labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(one.labels for one in found)]).numpy()
    counted = taken != CROWDED
    return scores[counted], taken[counted] >= 0, labels[counted]


def classification_scores(probabilities_NK: Tensor, labels_N: Tensor) -> ScoreCurve | None:
    """Return the curve of the best class of each image: below the score no class is named; None without images."""
    if not len(labels_N):
        return None
    best = probabilities_NK.double().nan_to_num(nan=0.0).max(dim=1)
    return score_curve(best.values.numpy(), (best.indices == labels_N).numpy(), len(labels_N))


def classification_scores_by_class(probabilities_NK: Tensor, labels_N: Tensor) -> list[BestScore | None]:
    """Return the best score of each class by itself: of the images that it is named for; None where it has no image, or none is right."""
    if not len(labels_N):
        return [None] * probabilities_NK.shape[1]
    best = probabilities_NK.double().nan_to_num(nan=0.0).max(dim=1)
    scores, right, named = best.values.numpy(), (best.indices == labels_N).numpy(), best.indices.numpy()
    num_images = labels_N.bincount(minlength=probabilities_NK.shape[1]).tolist()
    return [
        score_curve(scores[named == label], right[named == label], number).numbers() if number else None
        for label, number in enumerate(num_images)
    ]
