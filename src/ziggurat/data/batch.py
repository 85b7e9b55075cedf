"""What travels from the data to the model: samples, and microbatches of them.

Shapes: ``B`` images, ``C`` channels (red, green and blue of 8 bits, uint8, or bands of their own type, float32, NaN where they hold nothing), ``H`` rows, ``W`` columns, ``N`` objects of one image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ziggurat.data.extents import Extent, OfTwoDims, Region, largest, rounded_up

IGNORED_PIXEL = 255  # of a mask


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
        repeat: How often the epoch had it before, where an epoch may have a sample several times (`data.balance`).
    """

    epoch: int
    sample: int
    repeat: int = 0

    @property
    def key(self) -> tuple[int, ...]:
        """The numbers that key what is random in the sample: a repeat looks different from the first."""
        return (self.epoch, self.sample, self.repeat) if self.repeat else (self.epoch, self.sample)


@dataclass(frozen=True)
class Part(OfTwoDims):
    """The part of an image that one worker has, where several share each image.

    Attributes:
        extent: Of the whole image.
        tile: The pixels that the worker has: all along a dim that is too small to be cut.
        own: Those that it answers for: every pixel is one worker's.
    """

    extent: Extent
    tile: Region
    own: Region

    def sizes(self, whole: Sequence[Extent]) -> list[Extent]:
        """Return what the part holds of each image.

        Args:
            whole: Extent of each image before padding.
        """
        return [self.tile.intersection(Region.whole(extent)).size for extent in whole]


@dataclass(frozen=True)
class Sample:
    """One image as the model will see it, with what is to be predicted.

    Attributes:
        id: Which sample of which epoch.
        image_CHW: Shape ``(C, H, W)``; of a part, its pixels only.
        target: What is to be predicted, as the run's task cuts it: only the task looks into it.
        part: Which part of the image this is; None for all of it.
    """

    id: SampleId
    image_CHW: Tensor
    target: Any
    part: Part | None = None


@dataclass(frozen=True)
class Microbatch:
    """A fixed piece of the global batch: the unit of computation.

    Attributes:
        index: Place in the global batch, from 0.
        ids: The samples, in canonical order.
        images_BCHW: Padded with zeros below and to the right; of a part, its pixels only.
        sizes: Extent of each whole image before padding.
        targets: What is to be predicted, as the run's task stacks it: a tensor, a dataclass of tensors, or a tuple, list or
            dictionary of such. Only the task looks into it.
        part: Which part of the padded images this is; None for all of them.
        faults: A sentence for each sample in whose place stands another, as its image cannot be read.
    """

    index: int
    ids: tuple[SampleId, ...]
    images_BCHW: Tensor
    sizes: tuple[Extent, ...]
    targets: Any
    part: Part | None = None
    faults: tuple[str, ...] = ()

    @property
    def extent(self) -> Extent:
        """Extent of the whole padded images."""
        return tuple(self.images_BCHW.shape[2:]) if self.part is None else self.part.extent

    @property
    def own_sizes(self) -> Sequence[Extent]:
        """What `images_BCHW` holds of each image, without padding."""
        return self.sizes if self.part is None else self.part.sizes(self.sizes)

    def to(self, device: torch.device) -> Microbatch:
        """Return the microbatch with its tensors on `device` (copied asynchronously from pinned memory)."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Microbatch:
        """Return the microbatch in page-locked memory (called by the data loader)."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Microbatch:
        return replace(self, images_BCHW=change(self.images_BCHW), targets=map_tensors(self.targets, change))


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a value whose tensors are changed: a tensor, a dataclass, a tuple, list or dictionary; all else stays.

    Example:
        >>> map_tensors({"boxes": torch.ones(2), "counts": (1, 1)}, lambda tensor: 2 * tensor)
        {'boxes': tensor([2., 2.]), 'counts': (1, 1)}
    """
    if isinstance(value, Tensor):
        return change(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{name: map_tensors(one, change) for name, one in vars(value).items()})
    if isinstance(value, dict):
        return {name: map_tensors(one, change) for name, one in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        return type(value)(*(map_tensors(one, change) for one in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(one, change) for one in value)
    return value


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
    return stack_padded(images, rounded_up(largest([tuple(image.shape[1:]) for image in images]), multiple))


def stack_padded(images: Sequence[Tensor], extent: Extent) -> Tensor:
    """Stack images, padded with zeros behind them to an extent that holds each.

    Args:
        images: Tensors of shape ``(C, *size)`` with sizes of their own.
        extent: Of the result.

    Returns:
        Shape ``(B, C, *extent)``, in the type and on the device of the first.
    """
    stacked = images[0].new_zeros((len(images), images[0].shape[0], *extent))
    for place, image in zip(stacked, images, strict=True):
        place[(..., *Region.whole(tuple(image.shape[1:])).slices)] = image
    return stacked
