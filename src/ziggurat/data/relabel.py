"""A data set seen with the labels of a model that was trained on another one."""

from __future__ import annotations

import torch
from torch import Tensor

from ziggurat.data.batch import Objects
from ziggurat.data.dataset import DetectionDataset, ImageRecord
from ziggurat.errors import UserError


def with_labels_of(dataset: DetectionDataset, classes: tuple[str, ...]) -> DetectionDataset:
    """Return the data set with the labels of `classes`, matched by name.

    Args:
        dataset: May lack some of the classes, and have them in another order.
        classes: The name of each label that the model knows.

    Raises:
        UserError: If the data set has classes that are not among them.
    """
    if dataset.classes == classes:
        return dataset
    unknown = [name for name in dataset.classes if name not in classes]
    if unknown:
        raise UserError(
            f"every class of the data must be one that the run knows: {', '.join(unknown)} are not among "
            f"{', '.join(classes)}; rename or remove them"
        )
    return _Relabelled(dataset, classes)


class _Relabelled:
    """A data set whose labels are looked up in a table."""

    def __init__(self, dataset: DetectionDataset, classes: tuple[str, ...]) -> None:
        self.dataset = dataset
        self.classes = classes
        self.table = torch.tensor([classes.index(name) for name in dataset.classes], dtype=torch.int64)
        own = dict(zip(dataset.classes, dataset.category_ids, strict=True))
        unused = (number for number in range(1, 1 << 31) if number not in dataset.category_ids)
        self.category_ids = tuple(own[name] if name in own else next(unused) for name in classes)

    def __len__(self) -> int:
        return len(self.dataset)

    def record(self, index: int) -> ImageRecord:
        return self.dataset.record(index)

    def objects(self, index: int) -> Objects:
        objects = self.dataset.objects(index)
        return Objects(objects.boxes_xyxy, self.table[objects.labels])

    def image(self, index: int) -> Tensor:
        return self.dataset.image(index)
