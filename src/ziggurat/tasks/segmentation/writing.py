"""What `predict` writes of a segmented image: its mask as a file, and its pixels by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ziggurat.tasks.base import Place, ResultTable
from ziggurat.visualize.labels import label_image

MASKS = "masks"


def mask_row(labels_HW: Tensor, place: Place) -> dict[str, Any]:
    """Write the labels of an image's pixels into the folder ``masks``, and return its row."""
    masks = place.folder / MASKS
    masks.mkdir(exist_ok=True)
    file = masks / f"{place.stem}.png"
    label_image(labels_HW).save(file)
    counts = torch.bincount(labels_HW.flatten(), minlength=len(place.classes)).tolist()
    pixels = {name: count for name, count in zip(place.classes, counts, strict=True) if count}
    return place.facts | {"mask": str(file), "pixels": pixels}


def mask_table(rows: Sequence[dict[str, Any]]) -> ResultTable:
    """Return a line for each class that an image has, with the image's mask, and the class's pixels and share of them."""
    lines = [
        [row["file_name"], row["mask"], label, pixels, pixels / sum(row["pixels"].values())]
        for row in rows
        for label, pixels in row["pixels"].items()
    ]
    return ResultTable(("image_path", "mask", "label", "pixels", "share"), lines)
