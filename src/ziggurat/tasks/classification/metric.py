"""The metric of classification: how often the right class is the best."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ziggurat.data.dataset import ClassificationDataset
from ziggurat.metrics.base import Metric, overall
from ziggurat.metrics.classification import classification_metrics
from ziggurat.metrics.confusions import classification_confusion
from ziggurat.metrics.curves import classification_curves
from ziggurat.metrics.findings import ClassRow, Findings, class_shares
from ziggurat.metrics.quality import classification_quality
from ziggurat.metrics.scores import classification_scores, classification_scores_by_class


class ClassificationMetric(Metric[Tensor]):
    """Compares the probabilities of each image's classes with its label.

    Args:
        dataset: Of the labels.
    """

    by_class = MappingProxyType({"class_accuracy": "per_class"})

    def __init__(self, dataset: ClassificationDataset) -> None:
        self._dataset = dataset
        self._found: dict[int, Tensor] = {}

    @property
    def probabilities(self) -> Tensor:
        """Those of each image, float32, shape ``(images, K)``."""
        return torch.stack([self._found[index] for index in range(len(self._dataset))])

    def update(self, index: int, prediction: Tensor) -> None:
        """Take the probabilities of an image's classes, shape ``(K,)``."""
        self._found[index] = prediction

    def state(self) -> tuple[list[int], Tensor | None]:
        """Return the probabilities of this worker's images, in one tensor."""
        return list(self._found), torch.stack(list(self._found.values())) if self._found else None

    def merge(self, states: Sequence[tuple[list[int], Tensor | None]]) -> None:
        """Take the probabilities of all images."""
        for indices, probabilities in states:
            if probabilities is not None:
                self._found |= dict(zip(indices, probabilities, strict=True))

    def compute(self) -> dict[str, Any]:
        """Return what `classification_metrics` says."""
        return classification_metrics(self.probabilities, self._labels(), self._dataset.classes)

    def findings(self, metrics: dict[str, Any]) -> Findings:
        """Return recalls, precisions, curves and what is taken for what; an image's quality is its right class's."""
        probabilities, labels = self.probabilities, self._labels()
        curves = classification_curves(probabilities, labels)
        average = {curve.label: curve.average_precision for curve in curves}
        confusion = classification_confusion(probabilities, labels)
        classes = self._dataset.classes
        best = classification_scores_by_class(probabilities, labels)
        rows = [
            ClassRow(
                name, count, {"recall": recall, "precision": precision, "AP": average.get(label)}, best[label]
            )
            for label, (name, count, recall, precision, _) in enumerate(class_shares(classes, confusion))
        ]
        return Findings(
            "images", overall(metrics), rows, confusion, classes, curves, "Precision and recall, each class against the rest",
            classification_quality(probabilities, labels), "probability of the true class", lambda index: 1,
            classification_scores(probabilities, labels),
        )  # fmt: skip

    def _labels(self) -> Tensor:
        labels = [self._dataset.label(index) for index in range(len(self._dataset))]
        return torch.tensor(labels, dtype=torch.int64)
