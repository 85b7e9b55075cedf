"""The targets of segmentation: a label for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ziggurat.config import DataConfig
from ziggurat.data.batch import IGNORED_PIXEL, Part
from ziggurat.data.dataset import SegmentationDataset
from ziggurat.data.extents import Region, cut_out
from ziggurat.data.targets import num_crops
from ziggurat.data.transforms import Augmentation, augment_mask


@dataclass(frozen=True)
class MaskTargets:
    """The label of each pixel of a microbatch, uint8, shape ``(B, H, W)``; `IGNORED_PIXEL` in the padding."""

    labels_BHW: Tensor


class MaskKind:
    """Reads, cuts and stacks masks; see `TargetKind`. Each of the workers that share an image has its own pixels."""

    is_cached = True
    counted = "pixels"

    def num_samples(self, dataset: SegmentationDataset, index: int, config: DataConfig) -> int:
        """Return how many crops fit into an image."""
        return num_crops(dataset, index, config)

    def read(self, dataset: SegmentationDataset, index: int) -> Tensor:
        """Return the label of each pixel, uint8, shape ``(H, W)``."""
        return dataset.mask(index)

    def count_classes(self, dataset: SegmentationDataset, index: int) -> dict[int, int]:
        """Return how many pixels of each class an image has, by label; those without one do not count."""
        counts = torch.bincount(dataset.mask(index).flatten(), minlength=IGNORED_PIXEL + 1)[:IGNORED_PIXEL]
        return {label: int(counts[label]) for label in counts.nonzero().flatten().tolist()}

    def labels(self, target: Tensor) -> list[int]:
        """Return the labels that pixels have, rising."""
        counts = torch.bincount(target.flatten(), minlength=IGNORED_PIXEL + 1)[:IGNORED_PIXEL]
        found: list[int] = counts.nonzero().flatten().tolist()
        return found

    def locate(self, target: Tensor, label: int, drawn: float) -> Region:
        """Return one of the pixels of a label."""
        is_label = target == label
        ends = is_label.sum(dim=1).cumsum(0)  # of each row, not of each pixel: images are large
        number = int(drawn * int(ends[-1]))
        row = int(torch.searchsorted(ends, number, right=True))
        before = int(ends[row - 1]) if row else 0
        column = int(is_label[row].nonzero()[number - before])
        return Region((row, column), (1, 1))

    def cut(
        self, target: Tensor, augmentation: Augmentation, config: DataConfig, part: Part | None
    ) -> Tensor:
        """Return the labels of a crop, or of those of its pixels that this worker answers for."""
        mask = augment_mask(target, augmentation, config.crop)
        return mask if part is None else cut_out(mask, part.own)

    def stack(self, targets: Sequence[Tensor], rows: int, columns: int) -> MaskTargets:
        """Join masks, padded with `IGNORED_PIXEL`."""
        labels_BHW = torch.full((len(targets), rows, columns), IGNORED_PIXEL, dtype=torch.uint8)
        for place, mask in zip(labels_BHW, targets, strict=True):
            place[: mask.shape[0], : mask.shape[1]] = mask
        return MaskTargets(labels_BHW)

    def draw(
        self,
        generator: torch.Generator,
        num_classes: int,
        count: int,
        extent: tuple[int, int],
        part: Part | None,
    ) -> MaskTargets:
        """Return a label for each pixel, or for those that this worker answers for."""
        labels_BHW = torch.randint(0, num_classes, (count, *extent), generator=generator).to(torch.uint8)
        if part is not None:
            own = part.own
            labels_BHW = labels_BHW[:, own.top : own.top + own.height, own.left : own.left + own.width]
        return MaskTargets(labels_BHW)
