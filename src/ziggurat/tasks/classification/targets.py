"""The targets of classification: a label for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ziggurat.config import DataConfig
from ziggurat.data.batch import Part
from ziggurat.data.dataset import ClassificationDataset
from ziggurat.data.transforms import Augmentation


@dataclass(frozen=True)
class LabelTargets:
    """The label of each image of a microbatch, int64, shape ``(B,)``."""

    labels_B: Tensor


class LabelKind:
    """Reads and stacks labels; see `TargetKind`. Workers that share an image all know its label.

    Example:
        >>> LabelKind().stack([3, 1], 8, 8).labels_B
        tensor([3, 1])
    """

    is_cached = False
    counted = "images"

    def num_samples(self, dataset: ClassificationDataset, index: int, config: DataConfig) -> int:
        """Return 1: an image with one label is one sample, whatever its size, which need not be read."""
        return 1

    def read(self, dataset: ClassificationDataset, index: int) -> int:
        """Return the label of an image."""
        return dataset.label(index)

    def count_classes(self, dataset: ClassificationDataset, index: int) -> dict[int, int]:
        """Return the label of an image, once."""
        return {dataset.label(index): 1}

    def cut(self, target: int, augmentation: Augmentation, config: DataConfig, part: Part | None) -> int:
        """Return the label of the whole image."""
        return target

    def stack(self, targets: Sequence[int], rows: int, columns: int) -> LabelTargets:
        """Join the labels of images."""
        return LabelTargets(torch.tensor(targets))

    def draw(
        self,
        generator: torch.Generator,
        num_classes: int,
        count: int,
        extent: tuple[int, int],
        part: Part | None,
    ) -> LabelTargets:
        """Return a label for each image."""
        return LabelTargets(torch.randint(0, num_classes, (count,), generator=generator))
