"""What travels from the data to the model: samples, and microbatches of them.

Shapes: ``B`` images, ``C`` = 3 channels, ``H`` rows, ``W`` columns, ``N`` objects of one image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ziggurat.data.tiles import Tile

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
    """

    epoch: int
    sample: int


@dataclass(frozen=True)
class Part:
    """The part of an image that one worker has, where several share each image.

    Attributes:
        height: Rows of the whole image.
        width: Columns of the whole image.
        tile: The rows and columns that the worker has: all of an extent that is too small to be cut.
        own: Those that it answers for: every pixel is one worker's.
    """

    height: int
    width: int
    tile: Tile
    own: Tile

    def sizes(self, whole: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return what the part holds of each image, rows and columns.

        Args:
            whole: Rows and columns of each image before padding.
        """
        tile = self.tile
        return [
            (min(max(height - tile.top, 0), tile.height), min(max(width - tile.left, 0), tile.width))
            for height, width in whole
        ]


@dataclass(frozen=True)
class Sample:
    """One image as the model will see it, with what is to be predicted.

    Attributes:
        id: Which sample of which epoch.
        image_CHW: uint8, shape ``(3, H, W)``; of a part, its pixels only.
        target: The objects, in pixels of the whole image; or the label of the image; or the label of each pixel,
            uint8, shape ``(H, W)``, where `IGNORED_PIXEL` takes no part (of a part, of those that it answers for).
        part: Which part of the image this is; None for all of it.
    """

    id: SampleId
    image_CHW: Tensor
    target: Target
    part: Part | None = None


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


@dataclass(frozen=True)
class LabelTargets:
    """The label of each image of a microbatch, int64, shape ``(B,)``."""

    labels_B: Tensor


@dataclass(frozen=True)
class MaskTargets:
    """The label of each pixel of a microbatch, uint8, shape ``(B, H, W)``; `IGNORED_PIXEL` in the padding."""

    labels_BHW: Tensor


Target = Objects | int | Tensor
Targets = ObjectTargets | LabelTargets | MaskTargets


def stack_targets(targets: Sequence[Target], height: int, width: int) -> Targets:
    """Join the targets of samples.

    Args:
        targets: One at least, all of one kind.
        height: Rows that masks are padded to.
        width: Columns that masks are padded to.

    Example:
        >>> stack_targets([3, 1], 8, 8).labels_B
        tensor([3, 1])
    """
    if isinstance(targets[0], Objects):
        objects = [target for target in targets if isinstance(target, Objects)]
        boxes = torch.cat([one.boxes_xyxy for one in objects])
        labels = torch.cat([one.labels for one in objects])
        return ObjectTargets(boxes, labels, tuple(len(one) for one in objects))
    if isinstance(targets[0], int):
        return LabelTargets(torch.tensor(targets))
    labels_BHW = torch.full((len(targets), height, width), IGNORED_PIXEL, dtype=torch.uint8)
    for place, mask in zip(labels_BHW, targets, strict=True):
        assert isinstance(mask, Tensor)
        place[: mask.shape[0], : mask.shape[1]] = mask
    return MaskTargets(labels_BHW)


@dataclass(frozen=True)
class Microbatch:
    """A fixed piece of the global batch: the unit of computation.

    Attributes:
        index: Place in the global batch, from 0.
        ids: The samples, in canonical order.
        images_BCHW: uint8, padded with zeros below and to the right; of a part, its pixels only.
        sizes: Rows and columns of each whole image before padding.
        targets: What is to be predicted.
        part: Which part of the padded images this is; None for all of them.
        faults: A sentence for each sample in whose place stands another, as its image cannot be read.
    """

    index: int
    ids: tuple[SampleId, ...]
    images_BCHW: Tensor
    sizes: tuple[tuple[int, int], ...]
    targets: Targets
    part: Part | None = None
    faults: tuple[str, ...] = ()

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns of the whole padded images."""
        if self.part is not None:
            return self.part.height, self.part.width
        rows, columns = self.images_BCHW.shape[-2:]
        return rows, columns

    @property
    def own_sizes(self) -> Sequence[tuple[int, int]]:
        """Rows and columns that `images_BCHW` holds of each image, without padding."""
        return self.sizes if self.part is None else self.part.sizes(self.sizes)

    def to(self, device: torch.device) -> Microbatch:
        """Return the microbatch with its tensors on `device` (copied asynchronously from pinned memory)."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Microbatch:
        """Return the microbatch in page-locked memory (called by the data loader)."""
        return self._map(Tensor.pin_memory)

    def share_memory(self) -> Microbatch:
        """Return the microbatch in shared memory (called in a loader process).

        Raises:
            RuntimeError: If there is too little of it.
        """
        return self._map(Tensor.share_memory_)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Microbatch:
        tensors = {name: value for name, value in vars(self.targets).items() if isinstance(value, Tensor)}
        # mypy does not know which of the records it is; their tensors keep their names
        targets = replace(self.targets, **{n: change(v) for n, v in tensors.items()})  # type: ignore[arg-type]
        return replace(self, images_BCHW=change(self.images_BCHW), targets=targets)


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
    return stack_padded(images, height, width)


def stack_padded(images: list[Tensor], height: int, width: int) -> Tensor:
    """Stack images of shape ``(3, H, W)``, padded with zeros to a size that holds each of them."""
    stacked = images[0].new_zeros((len(images), images[0].shape[0], height, width))
    for place, image in zip(stacked, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return stacked
