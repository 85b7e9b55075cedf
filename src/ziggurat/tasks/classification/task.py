"""The classification task: from a model's outputs to the loss's shares, to probabilities, and to the metric.

Shapes: ``B`` images of a microbatch, ``N`` images of a data set, ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.config import LossConfig
from ziggurat.data.batch import LabelTargets, Microbatch
from ziggurat.models.classifier import Classifier
from ziggurat.models.vision import VisionModel
from ziggurat.tasks.own import whole_output

TOP = 5  # classes among which the right one shall be, besides the best one


class ClassificationTask:
    """Computes shares of the cross-entropy, of the joined prediction and of those of single levels.

    Args:
        model: Gives the names of its levels' predictions, if it has any; its weights are not used.
        loss: The loss.

    Where several workers share each image, each has the logits, and takes an equal part of the loss.

    Attributes:
        normalizers_are_parts: No: every worker knows all labels.
        normalizer_names: What the loss is divided by.
        output_sum_names: None: the loss is a sum over images.
        term_names: The terms of the loss.
    """

    normalizers_are_parts = False
    normalizer_names: tuple[str, ...] = ("images",)
    output_sum_names: tuple[str, ...] = ()

    def __init__(self, model: VisionModel, loss: LossConfig) -> None:
        self._loss = loss
        self._level_names = cast(Classifier, model).level_names
        self.term_names: tuple[str, ...] = ("classes", "levels") if self._level_names else ("classes",)

    def assign(self, batch: Microbatch) -> Tensor:
        """Return the label of each image, int64, shape ``(B,)``."""
        assert isinstance(batch.targets, LabelTargets)
        return batch.targets.labels_B

    def normalizers(self, assignment: Tensor) -> Tensor:
        """Return the number of images, float64, shape ``(1,)``."""
        return torch.full((1,), len(assignment), dtype=torch.float64, device=assignment.device)

    def output_sums(self, outputs: dict[str, Tensor], assignment: Tensor) -> Tensor:
        """Return nothing, float64, shape ``(0,)``: the loss depends on no sums over outputs."""
        return torch.zeros(0, dtype=torch.float64, device=assignment.device)

    def loss_shares(
        self, outputs: dict[str, Tensor], assignment: Tensor, totals: Tensor
    ) -> dict[str, Tensor]:
        """Return a microbatch's share of each term; summed over all microbatches they are the loss.

        Computed in float32 (or float64, if the outputs are), also under autocast. ``classes`` is the cross-entropy
        of the joined prediction, ``levels`` the mean of those of the levels times ``loss.level_weight``.

        Args:
            outputs: The model's: logits, shapes ``(B, K)``.
            assignment: Of the same microbatch.
            totals: The number of images of the global batch, float64, shape ``(1,)``.
        """
        with torch.autocast(assignment.device.type, enabled=False):
            shares = {"classes": self._share(outputs["logits"], assignment, totals)}
            if self._level_names:
                levels = [self._share(outputs[name], assignment, totals) for name in self._level_names]
                shares["levels"] = torch.stack(levels).mean() * self._loss.level_weight
        return shares

    def probabilities(self, outputs: dict[str, Tensor]) -> Tensor:
        """Return the probability of each class, float32 (or float64, if the outputs are), shape ``(B, K)``."""
        return _widen(whole_output(outputs["logits"])[0]).softmax(dim=1)

    def _share(self, logits_BK: Tensor, labels_B: Tensor, totals: Tensor) -> Tensor:
        logits_BK, num_workers = whole_output(logits_BK)
        logits_BK = _widen(logits_BK)
        losses = functional.cross_entropy(
            logits_BK, labels_B, reduction="sum", label_smoothing=self._loss.smoothing
        )
        return losses / (totals[0].to(device=losses.device, dtype=losses.dtype).clamp(min=1) * num_workers)


def _widen(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


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
