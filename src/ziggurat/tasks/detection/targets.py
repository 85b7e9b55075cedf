"""The targets of detection: the objects of each image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ziggurat.config import DataConfig
from ziggurat.data.batch import Objects, Part
from ziggurat.data.dataset import DetectionDataset
from ziggurat.data.extents import Region
from ziggurat.data.targets import num_crops
from ziggurat.data.transforms import Augmentation, augment_objects

MOST_DRAWN = 4  # objects of an image that is drawn at random


@dataclass(frozen=True)
class ObjectTargets:
    """The objects of all images of a microbatch, those of the first image first.

    Attributes:
        boxes_xyxy: Corners in pixels of the image, float32, shape ``(M, 4)``.
        labels: int64, shape ``(M,)``.
        counts: Objects of each image.
    """

    boxes_xyxy: Tensor
    labels: Tensor
    counts: tuple[int, ...]


class ObjectKind:
    """Reads, cuts and stacks objects; see `TargetKind`. Workers that share an image all know its objects."""

    is_cached = False
    counted = "objects"

    def num_samples(self, dataset: DetectionDataset, index: int, config: DataConfig) -> int:
        """Return how many crops fit into an image."""
        return num_crops(dataset, index, config)

    def read(self, dataset: DetectionDataset, index: int) -> Objects:
        """Return the objects that a detector is trained on."""
        return dataset.objects(index)

    def count_classes(self, dataset: DetectionDataset, index: int) -> dict[int, int]:
        """Return how many objects of each class a detector is trained on in an image, by label."""
        return dict(Counter(dataset.objects(index).labels.tolist()))

    def labels(self, target: Objects) -> list[int]:
        """Return the labels of objects, rising."""
        return sorted(set(target.labels.tolist()))

    def locate(self, target: Objects, label: int, drawn: float) -> Region:
        """Return the pixels that one of the objects of a label has a part of."""
        of_label = (target.labels == label).nonzero().flatten()
        x1, y1, x2, y2 = target.boxes_xyxy[of_label[int(drawn * len(of_label))]].tolist()
        start = math.floor(y1), math.floor(x1)
        return Region.between(start, (max(math.ceil(y2), start[0] + 1), max(math.ceil(x2), start[1] + 1)))

    def cut(
        self, target: Objects, augmentation: Augmentation, config: DataConfig, part: Part | None
    ) -> Objects:
        """Return the objects of a crop, those that are visible enough, in pixels of the whole crop."""
        return augment_objects(target, augmentation, config.crop, config.min_visible)

    def stack(self, targets: Sequence[Objects], rows: int, columns: int) -> ObjectTargets:
        """Join the objects of images."""
        boxes = torch.cat([one.boxes_xyxy for one in targets])
        labels = torch.cat([one.labels for one in targets])
        return ObjectTargets(boxes, labels, tuple(len(one) for one in targets))

    def draw(
        self,
        generator: torch.Generator,
        num_classes: int,
        count: int,
        extent: tuple[int, int],
        part: Part | None,
    ) -> ObjectTargets:
        """Return one object at least an image: boxes of two pixels up to the whole image."""
        return self.stack([_draw_objects(generator, num_classes, *extent) for _ in range(count)], *extent)


def _draw_objects(generator: torch.Generator, num_classes: int, rows: int, columns: int) -> Objects:
    def draw(number: int, below: int) -> Tensor:
        return torch.randint(0, below, (number,), generator=generator)

    number = 1 + int(draw(1, MOST_DRAWN))
    corners = [torch.stack([draw(number, size), draw(number, size)]) for size in (columns, rows)]
    low = torch.stack([c.amin(0) for c in corners], dim=1).clamp(max=min(rows, columns) - 2)
    high = torch.maximum(torch.stack([c.amax(0) for c in corners], dim=1), low + 2)
    return Objects(torch.cat([low, high], dim=1).float(), draw(number, num_classes))
