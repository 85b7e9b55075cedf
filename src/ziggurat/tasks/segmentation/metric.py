"""The metric of segmentation: counts of pixels by true and predicted class."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ziggurat.data.dataset import SegmentationDataset
from ziggurat.metrics.base import Metric, overall
from ziggurat.metrics.confusion import confusion_matrix, image_quality, segmentation_metrics
from ziggurat.metrics.findings import ClassRow, Findings, class_shares
from ziggurat.metrics.mistakes import CELL, Mistakes, is_large, segmentation_mistakes


class SegmentationMetric(Metric[Tensor]):
    """Counts pixels: no label map is kept, however large the images are.

    Args:
        dataset: Of the masks.
    """

    by_class = MappingProxyType({"iou": "per_class_iou"})

    def __init__(self, dataset: SegmentationDataset) -> None:
        self._dataset = dataset
        num_classes = len(dataset.classes)
        self._confusion = torch.zeros((num_classes, num_classes), dtype=torch.int64)
        self._quality: dict[int, float] = {}
        self._mistakes: dict[int, Mistakes] = {}

    def update(self, index: int, prediction: Tensor) -> None:
        """Take the label of each pixel of an image, uint8, shape ``(H, W)``."""
        mask, extent = self._dataset.mask(index), tuple(prediction.shape)
        confusion = confusion_matrix(prediction, mask, len(self._dataset.classes))
        self._confusion += confusion
        self._quality[index] = image_quality(confusion)
        if is_large(extent):
            self._mistakes[index] = Mistakes(index, extent, segmentation_mistakes(prediction, mask, CELL))

    def state(self) -> tuple[Tensor, dict[int, float], dict[int, Mistakes]]:
        """Return the counts of this worker's images, how good the labels of each are, and where large ones are wrong."""
        return self._confusion, self._quality, self._mistakes

    def merge(self, states: Sequence[tuple[Tensor, dict[int, float], dict[int, Mistakes]]]) -> None:
        """Take the counts of all images."""
        # whole numbers: exact in any order
        self._confusion = torch.stack([confusion for confusion, _, _ in states]).sum(dim=0)
        self._quality = {index: value for _, quality, _ in states for index, value in quality.items()}
        self._mistakes = {index: one for *_, mistakes in states for index, one in mistakes.items()}

    def compute(self) -> dict[str, Any]:
        """Return what `segmentation_metrics` says."""
        return segmentation_metrics(self._confusion, self._dataset.classes)

    def findings(self, metrics: dict[str, Any]) -> Findings:
        """Return the IoU of each class and what is taken for what; an image's quality is its mean IoU."""
        confusion, dataset = self._confusion.numpy(), self._dataset
        rows = [
            ClassRow(name, count, {"IoU": iou, "recall": recall, "precision": precision})
            for name, count, recall, precision, iou in class_shares(dataset.classes, confusion)
        ]
        values = [self._quality[index] for index in range(len(dataset))]
        quality = torch.tensor(values, dtype=torch.float64)
        return Findings(
            "pixels", overall(metrics), rows, confusion, dataset.classes, None, "",
            quality, "mean IoU", lambda index: len(dataset.mask(index).unique()),
            mistakes=[self._mistakes[index] for index in sorted(self._mistakes)],
        )  # fmt: skip
