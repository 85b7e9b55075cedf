"""What travels from the data to the model: samples, and microbatches of them.

Shapes: ``B`` images, ``C`` = 3 channels, ``H`` rows, ``W`` columns, ``N`` objects of one image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Objects:
    """The annotated objects of one image.

    Attributes:
        boxes_xyxy: Corners in pixels of the image, float32, shape ``(N, 4)``.
        labels: Indices into the data set's class names, int64, shape ``(N,)``.
    """

    boxes_xyxy: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class SampleId:
    """Names one sample of one epoch; all of a sample's randomness is keyed by it and the run's seed.

    Attributes:
        epoch: Number of the epoch, from 0.
        sample: Number of the sample in the data set's list of samples, from 0.
    """

    epoch: int
    sample: int


@dataclass(frozen=True)
class Sample:
    """One image as the model will see it, with its objects.

    Attributes:
        id: Which sample of which epoch.
        image_CHW: uint8, shape ``(3, H, W)``.
        objects: The objects, in pixels of ``image_CHW``.
    """

    id: SampleId
    image_CHW: Tensor
    objects: Objects


@dataclass(frozen=True)
class Microbatch:
    """A fixed piece of the global batch: the unit of computation.

    Attributes:
        index: Place in the global batch, from 0.
        ids: The samples, in canonical order.
        images_BCHW: uint8, padded with zeros below and to the right.
        sizes: Rows and columns of each image before padding.
        objects: The objects of each image.
    """

    index: int
    ids: tuple[SampleId, ...]
    images_BCHW: Tensor
    sizes: tuple[tuple[int, int], ...]
    objects: tuple[Objects, ...]

    def to(self, device: torch.device) -> Microbatch:
        """Return the microbatch with its tensors on `device` (copied asynchronously from pinned memory)."""
        if device.type == "cpu":
            return self
        return replace(
            self,
            images_BCHW=self.images_BCHW.to(device, non_blocking=True),
            objects=tuple(
                Objects(o.boxes_xyxy.to(device, non_blocking=True), o.labels.to(device, non_blocking=True))
                for o in self.objects
            ),
        )

    def pin_memory(self) -> Microbatch:
        """Return the microbatch in page-locked memory (called by the data loader)."""
        return replace(
            self,
            images_BCHW=self.images_BCHW.pin_memory(),
            objects=tuple(Objects(o.boxes_xyxy.pin_memory(), o.labels.pin_memory()) for o in self.objects),
        )


def pad_and_stack(images: list[Tensor], multiple: int) -> Tensor:
    """Stack images of several sizes, padded with zeros below and to the right.

    Args:
        images: Tensors of shape ``(3, H, W)`` with sizes of their own.
        multiple: Rows and columns of the result are multiples of this number.

    Returns:
        Shape ``(B, 3, H', W')`` with the smallest ``H'`` and ``W'`` that hold every image.

    Example:
        >>> pad_and_stack([torch.ones(3, 5, 9), torch.ones(3, 7, 2)], multiple=8).shape
        torch.Size([2, 3, 8, 16])
    """
    height = max(image.shape[1] for image in images)
    width = max(image.shape[2] for image in images)
    height, width = (-(-extent // multiple) * multiple for extent in (height, width))
    stacked = images[0].new_zeros((len(images), images[0].shape[0], height, width))
    for place, image in zip(stacked, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return stacked
