"""What a data set is, whatever the task and the format: images with what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ziggurat.data.batch import Objects
from ziggurat.data.extents import Extent
from ziggurat.data.faults import Fault


@dataclass(frozen=True)
class ImageRecord:
    """What is known of an image without decoding it.

    Attributes:
        name: As in the annotations.
        image_id: As in the annotation file where all are numbers there, else counted from 1.
        height: Rows, upright.
        width: Columns, upright.
        spacing: Distance of rows and of columns, in metres on the ground with ``data.gsd``, in microns with ``data.mpp``; None
            without these, and of an image that does not say it and is taken as it is.
    """

    name: str
    image_id: int
    height: int
    width: int
    spacing: tuple[float, ...] | None = None

    @property
    def extent(self) -> Extent:
        """Rows and columns, upright."""
        return self.height, self.width


class Dataset(Protocol):
    """Images, and the names of what is on them; what else is known of them is for tasks to ask."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names; an index into them is a label."""
        ...

    @property
    def category_ids(self) -> tuple[int, ...]:
        """COCO category id of each label; from 1 where the format has none."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def record(self, index: int) -> ImageRecord:
        """Return what is known of an image, without decoding it."""
        ...

    def image(self, index: int) -> Tensor:
        """Return an image: RGB, uint8, shape ``(3, H, W)``, or the bands of ``data.bands``, float32, shape ``(C, H, W)``, NaN where there is nothing."""
        ...


class DetectionDataset(Dataset, Protocol):
    """Images with boxes and labels."""

    def objects(self, index: int) -> Objects:
        """Return the objects of an image, in its pixels."""
        ...


class ClassificationDataset(Dataset, Protocol):
    """Images with one label each."""

    def label(self, index: int) -> int:
        """Return the label of an image."""
        ...


class SegmentationDataset(Dataset, Protocol):
    """Images with a label for each pixel."""

    def mask(self, index: int) -> Tensor:
        """Return the label of each pixel, uint8, shape ``(H, W)``; `IGNORED_PIXEL` takes no part."""
        ...


@runtime_checkable
class CanLeaveOut(Protocol):
    """Images of which some can be left out, with the faults for which some were."""

    @property
    def left_out(self) -> tuple[Fault, ...]:
        """The faults of annotations and images that were left out."""
        ...

    def without(self, spoiled: Mapping[int, str]) -> Self:
        """Return the data set without some images, from their indices to what is wrong with each."""
        ...


@runtime_checkable
class DecodesInParts(Protocol):
    """Images that can be decoded without taking the memory of a whole one."""

    def try_decoding(self, index: int) -> None:
        """Decode an image from end to end, and keep nothing of it."""
        ...


def try_decoding(dataset: Dataset, index: int) -> None:
    """Decode an image from end to end.

    Raises:
        UserError: If it cannot be decoded.
    """
    if isinstance(dataset, DecodesInParts):
        dataset.try_decoding(index)
    else:
        dataset.image(index)


def notes_of(dataset: Dataset | None) -> tuple[str, ...]:
    """Return what was guessed, mended or left out while a data set was read; one from outside may say nothing."""
    return tuple(getattr(dataset, "notes", ()))


def left_out_of(dataset: Dataset | None) -> tuple[Fault, ...]:
    """Return the faults of annotations and images that were left out of a data set."""
    return dataset.left_out if isinstance(dataset, CanLeaveOut) else ()


@runtime_checkable
class KnowsCrowds(Protocol):
    """Images with annotations that training leaves out."""

    def all_objects(self, index: int) -> Objects:
        """Return every annotation of an image, with crowds."""
        ...

    def crowd(self, index: int) -> Tensor:
        """Return which of `all_objects` are crowds, bool, shape ``(N,)``."""
        ...

    def areas(self, index: int) -> Tensor:
        """Return the area of each of `all_objects` in pixels, shape ``(N,)``."""
        ...


@dataclass(frozen=True)
class Annotations:
    """Every annotated object of one image.

    Attributes:
        objects: With crowds.
        areas: Of each in pixels, shape ``(N,)``; its box's where the data set has no other.
        crowd: Whether a box holds a crowd rather than one object, bool, shape ``(N,)``.
    """

    objects: Objects
    areas: Tensor
    crowd: Tensor


def all_annotations(dataset: DetectionDataset, index: int) -> Annotations:
    """Return every annotation of an image."""
    if isinstance(dataset, KnowsCrowds):
        return Annotations(dataset.all_objects(index), dataset.areas(index), dataset.crowd(index))
    objects = dataset.objects(index)
    areas = (objects.boxes_xyxy[:, 2:] - objects.boxes_xyxy[:, :2]).prod(dim=1)
    return Annotations(objects, areas, torch.zeros(len(objects), dtype=torch.bool))


@dataclass(frozen=True)
class Spelling:
    """How annotation files write ids that are other numbers to us, so that results can be joined with the files.

    Attributes:
        images: From the id of an image, such as 7, to how it is written, such as ``"7"``, where that is another way.
        categories: From the id of a category likewise.
    """

    images: dict[int, int | str] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)


@runtime_checkable
class KnowsSpelling(Protocol):
    """Images whose annotation files may write ids in another way."""

    @property
    def spelled(self) -> Spelling:
        """How they do."""
        ...


def spelling_of(dataset: Dataset) -> Spelling:
    """Return how the files of a data set write ids."""
    return dataset.spelled if isinstance(dataset, KnowsSpelling) else Spelling()


def known_spacing(distances: np.ndarray) -> tuple[float, ...] | None:
    """Return the distance of rows and of columns that an array of them has; None where it is NaN."""
    return None if np.isnan(distances).any() else tuple(distances.tolist())
