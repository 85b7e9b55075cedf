"""How often a classifier is right.

Shapes: ``N`` images of a data set, ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

TOP = 5  # classes among which the right one shall be, besides the best one


def classification_metrics(scores_NK: Tensor, labels_N: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Return how often the right class is the best, and among the best five, and how often for each class.

    Of equal scores the earlier class is better. A score that is not a number is never among the best.

    Args:
        scores_NK: Probabilities or logits, shape ``(N, K)``.
        labels_N: The right classes, int64, shape ``(N,)``.
        classes: Names of the classes.

    Returns:
        ``top1``; ``top5`` where there are more than five classes; ``mean_class_accuracy``, the mean of the classes'
        recalls; ``per_class``, each class's recall by name. Classes without an image are left out of both.

    Raises:
        ValueError: If there is no image.

    Example:
        >>> scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
        >>> metrics = classification_metrics(scores, torch.tensor([0, 1, 1]), ["cat", "dog"])
        >>> metrics["mean_class_accuracy"], metrics["per_class"]
        (0.75, {'cat': 1.0, 'dog': 0.5})
    """
    if not len(labels_N):
        raise ValueError("metrics need an image at least: got none")
    ranks_N = _ranks(scores_NK, labels_N)
    counts = torch.bincount(labels_N, minlength=len(classes)).tolist()
    right = torch.bincount(labels_N[ranks_N == 0], minlength=len(classes)).tolist()
    recalls = {name: hits / count for name, hits, count in zip(classes, right, counts, strict=True) if count}
    metrics: dict[str, Any] = {"top1": sum(right) / len(labels_N)}
    if len(classes) > TOP:
        metrics[f"top{TOP}"] = int((ranks_N < TOP).sum()) / len(labels_N)
    return metrics | {"mean_class_accuracy": sum(recalls.values()) / len(recalls), "per_class": recalls}


def _ranks(scores_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Return how many classes are not worse than the right one, int64, shape ``(N,)``."""
    right_N1 = scores_NK.gather(1, labels_N[:, None])
    later = torch.arange(scores_NK.shape[1], device=labels_N.device) > labels_N[:, None]
    worse = (scores_NK < right_N1) | ((scores_NK == right_N1) & later)
    return scores_NK.shape[1] - 1 - worse.sum(dim=1)
