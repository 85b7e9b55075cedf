"""The metric of segmentation: counts of pixels by true and predicted class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ziggurat.data.dataset import SegmentationDataset
from ziggurat.metrics.base import Metric, overall
from ziggurat.metrics.confusion import confusion_matrix, image_quality, segmentation_metrics
from ziggurat.metrics.findings import ClassRow, Findings, class_shares


class SegmentationMetric(Metric[Tensor]):
    """Counts pixels: no label map is kept, however large the images are.

    Args:
        dataset: Of the masks.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        self._dataset = dataset
        num_classes = len(dataset.classes)
        self._confusion = torch.zeros((num_classes, num_classes), dtype=torch.int64)
        self._quality: dict[int, float] = {}

    def update(self, index: int, prediction: Tensor) -> None:
        """Take the label of each pixel of an image, uint8, shape ``(H, W)``."""
        confusion = confusion_matrix(prediction, self._dataset.mask(index), len(self._dataset.classes))
        self._confusion += confusion
        self._quality[index] = image_quality(confusion)

    def state(self) -> tuple[Tensor, dict[int, float]]:
        """Return the counts of this worker's images, and how good the labels of each are."""
        return self._confusion, self._quality

    def merge(self, states: Sequence[tuple[Tensor, dict[int, float]]]) -> None:
        """Take the counts of all images."""
        # whole numbers: exact in any order
        self._confusion = torch.stack([confusion for confusion, _ in states]).sum(dim=0)
        self._quality = {index: value for _, quality in states for index, value in quality.items()}

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
        )  # fmt: skip
