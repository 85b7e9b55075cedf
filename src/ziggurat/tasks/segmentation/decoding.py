"""From the logits of a tile's pixels to labels, and to those of an image in its own pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from ziggurat.data.dataset import ImageRecord
from ziggurat.data.views import View
from ziggurat.parallel.spatial import SpatialTensor, whole_tensor


def whole_labels(logits_BKHW: Tensor) -> Tensor:
    """Return the best class of each pixel, uint8, shape ``(B, H, W)``.

    Communication:
        Where several workers share each image: one gather (a byte for each pixel).
    """
    if not isinstance(logits_BKHW, SpatialTensor):
        return logits_BKHW.argmax(dim=1).to(torch.uint8)
    x = logits_BKHW
    labels = x.local.argmax(dim=1).to(torch.uint8)
    return whole_tensor(SpatialTensor(labels, (x.dims[0], *x.dims[2:]), x.mesh), "the labels of all pixels")


def to_own_pixels(labels_HW: Tensor, view: View, record: ImageRecord) -> Tensor:
    """Undo the resizing of an image; each pixel takes its nearest label."""
    if view.extent == record.extent:
        return labels_HW
    resized: Tensor = functional.resize(
        labels_HW[None], list(record.extent), InterpolationMode.NEAREST_EXACT
    )[0]
    return resized
