"""What a data set is, and the compact form in which the user's data sets are held: images and boxes.

Labels and masks are in `labels`, `masks` and `outlines`. Boxes, names and sizes live in flat arrays, not in one Python object each: forked loader processes share their
pages, and a data set of a million boxes takes tens of megabytes.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ziggurat.data.batch import IGNORED_PIXEL, Objects
from ziggurat.data.extents import Extent, Region, cut_out
from ziggurat.data.faults import Fault, left_out
from ziggurat.data.readers.images import (
    blank_pixels,
    image_size,
    read_image,
    read_levels,
    read_window,
    survey,
    unturned,
)
from ziggurat.data.readers.layout import AS_THEY_ARE, Reading
from ziggurat.errors import UserError


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


class PackedStrings:
    """Many strings in two arrays.

    Example:
        >>> PackedStrings(["p3", "", "größer"])[2]
        'größer'
    """

    def __init__(self, strings: Sequence[str]) -> None:
        parts = [string.encode("utf-8", "surrogateescape") for string in strings]
        self._bytes = np.frombuffer(b"".join(parts), dtype=np.uint8)
        self._ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        start, end = self._ends[index], self._ends[index + 1]
        return self._bytes[start:end].tobytes().decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Boxes:
    """The boxes of all images, ordered by image, ``M`` in all.

    Attributes:
        ends: Boxes ``ends[i]`` to ``ends[i + 1]`` belong to image ``i``; int64, shape ``(images + 1,)``.
        xyxy: Corners in pixels of the image, float32, shape ``(M, 4)``.
        labels: Indices into the class names, int64, shape ``(M,)``.
        areas: The object's area in pixels as the annotation gives it, else its box's, float32, shape ``(M,)``.
        crowd: Whether the box holds a crowd rather than one object, bool, shape ``(M,)``.
    """

    ends: np.ndarray
    xyxy: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray


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


@dataclass(frozen=True)
class FileList:
    """The image files of a data set.

    Attributes:
        names: Name of each image, as in the annotations.
        paths: File of each image.
        image_ids: Id of each image, int64, shape ``(images,)``.
        sizes: Rows and columns of each image, int64, shape ``(images, 2)``; 0 where they are read when they are needed.
        max_pixels: Images with more pixels are refused.
        reading: How samples become pixels.
        notes: What was guessed or mended while the annotations were read, in a sentence each.
        spelled: How the annotations write ids.
        turns: The EXIF orientation of images that are taken as they lie in their files, 0 of all others, uint8, shape
            ``(images,)``; None turns each as its EXIF says.
        left_out: The faults of annotations and images that were left out.
        spacings: Distance of rows and of columns of each image, as `ImageRecord` has it, float64, shape ``(images, 2)``; NaN
            where it is not known. None where no setting asks for it.
    """

    names: PackedStrings
    paths: PackedStrings
    image_ids: np.ndarray
    sizes: np.ndarray
    max_pixels: int
    reading: Reading = AS_THEY_ARE
    notes: tuple[str, ...] = ()
    spelled: Spelling = field(default_factory=Spelling)
    turns: np.ndarray | None = None
    left_out: tuple[Fault, ...] = ()
    spacings: np.ndarray | None = None


def known_spacing(distances: np.ndarray) -> tuple[float, ...] | None:
    """Return the distance of rows and of columns that an array of them has; None where it is NaN."""
    return None if np.isnan(distances).any() else tuple(distances.tolist())


class FileImages:
    """The images of a data set of files, whatever the format and the task are.

    Args:
        classes: Name of each label.
        category_ids: COCO category id of each label.
        files: The images.
    """

    def __init__(self, classes: tuple[str, ...], category_ids: tuple[int, ...], files: FileList) -> None:
        self.classes = classes
        self.category_ids = category_ids
        self._files = files
        self._place = np.arange(len(files.names))  # of each image, in the arrays

    @property
    def notes(self) -> tuple[str, ...]:
        """What was guessed, mended or left out, in a sentence each."""
        return self._files.notes + left_out(self._files.left_out)

    @property
    def spelled(self) -> Spelling:
        """How the annotations write ids."""
        return self._files.spelled

    @property
    def left_out(self) -> tuple[Fault, ...]:
        """The faults of annotations and images that were left out."""
        return self._files.left_out

    def without(self, spoiled: Mapping[int, str]) -> Self:
        """Return the data set without some images.

        Args:
            spoiled: From their indices to what is wrong with each.
        """
        other = copy.copy(self)
        other._place = np.delete(self._place, list(spoiled))
        faults = [
            Fault(str(self.path(index)), None, f"undecodable image: {why}", "image")
            for index, why in sorted(spoiled.items())
        ]
        other._files = replace(self._files, left_out=(*self._files.left_out, *faults))
        return other

    def __len__(self) -> int:
        return len(self._place)

    def record(self, index: int) -> ImageRecord:
        """Return what is known of image `index`.

        Raises:
            UserError: If its size has to be read from its header, and cannot be.
        """
        (height, width), place = self._size(index), self._place[index]
        files = self._files
        spacing = None if files.spacings is None else known_spacing(files.spacings[place])
        return ImageRecord(files.names[place], int(files.image_ids[place]), height, width, spacing)

    def path(self, index: int) -> Path:
        """Return the file of image `index`."""
        return Path(self._files.paths[self._place[index]])

    def image(self, index: int) -> Tensor:
        """Decode image `index`, as `Dataset.image` says.

        Raises:
            UserError: If it cannot be decoded, or is not of the size that its annotations are for.
        """
        image = read_image(self.path(index), self._files.max_pixels, self._files.reading)
        if self._files.turns is not None:
            image = unturned(image, int(self._files.turns[self._place[index]]))
        self._check_size(index, image.shape[1:])
        return image

    def _check_size(self, index: int, found: Extent) -> None:
        rows, columns = self._files.sizes[self._place[index]].tolist()
        if rows and found != (rows, columns):
            raise UserError(
                f"the image {self.path(index)} has {found[1]} x {found[0]} pixels, its annotations say "
                f"{columns} x {rows}: correct the size or replace the image"
            )

    def try_decoding(self, index: int) -> None:
        """Decode image `index` from end to end, and keep nothing of it; one of which regions can be read takes little memory.

        Raises:
            UserError: As `image`.
        """
        found = survey(self.path(index), self._files.max_pixels, self._files.reading).info.extent
        if self._files.turns is not None and self._files.turns[self._place[index]] >= 5:
            found = found[::-1]
        self._check_size(index, found)

    def levels(self, index: int) -> tuple[Extent, ...]:
        """Return the rows and columns of each level of resolution of image `index`, the finest first."""
        size = self._size(index)
        return (size,) if self._is_unturned(index) else read_levels(self.path(index), size)

    def window(self, index: int, region: Region, level: int = 0) -> Tensor | None:
        """Read a window of a level of image `index` without the rest of its file; None where that is not possible."""
        files = self._files
        if self._is_unturned(index):
            return None
        return read_window(
            self.path(index), files.max_pixels, self._size(index), region, files.reading, level
        )

    def _is_unturned(self, index: int) -> bool:
        """Whether the image is taken as it lies in its file, which its EXIF turns."""
        return self._files.turns is not None and bool(self._files.turns[self._place[index]])

    def blank(self, index: int, region: Region) -> Tensor | None:
        """Return where in a region of image `index` no band that is read holds anything; None if that is nowhere by its header.

        Of red, green and blue of 8 bits nothing is said.

        Returns:
            bool, shape ``region.size``.

        Raises:
            UserError: If the image cannot be decoded.
        """
        files = self._files
        if files.turns is None or not self._is_unturned(index):
            return blank_pixels(self.path(index), files.max_pixels, files.reading, region)
        found = blank_pixels(self.path(index), files.max_pixels, files.reading)
        if found is None:
            return None
        return cut_out(unturned(found[None], int(files.turns[self._place[index]])), region)[0]

    def _ignoring(self, labels_HW: Tensor, index: int, region: Region) -> Tensor:
        """Return the labels of a region's pixels, which are written to, with `IGNORED_PIXEL` where the image holds nothing."""
        blank_HW = self.blank(index, region)
        if blank_HW is not None:
            labels_HW[blank_HW] = IGNORED_PIXEL
        return labels_HW

    def _size(self, index: int) -> tuple[int, int]:
        place = self._place[index]
        if not self._files.sizes[place].any():
            self._files.sizes[place] = image_size(self.path(index), self._files.max_pixels)
        rows, columns = self._files.sizes[place].tolist()
        return rows, columns


class FileDataset(FileImages):
    """A detection data set of files.

    Args:
        classes: Name of each label.
        category_ids: COCO category id of each label.
        files: The images.
        boxes: The boxes of all images.
    """

    def __init__(
        self, classes: tuple[str, ...], category_ids: tuple[int, ...], files: FileList, boxes: Boxes
    ) -> None:
        super().__init__(classes, category_ids, files)
        self._boxes = boxes

    def objects(self, index: int) -> Objects:
        """Return the objects of image `index` that a detector is trained on: no crowds, cut to the image."""
        every, crowd = self.all_objects(index), self.crowd(index)
        rows, columns = self._size(index)
        boxes = torch.minimum(every.boxes_xyxy.clamp(min=0), torch.tensor([columns, rows] * 2))
        return Objects(boxes[~crowd], every.labels[~crowd])

    def all_objects(self, index: int) -> Objects:
        """Return every annotation of image `index`, with crowds."""
        rows = self._rows(index)
        return Objects(torch.tensor(self._boxes.xyxy[rows]), torch.tensor(self._boxes.labels[rows]))

    def crowd(self, index: int) -> Tensor:
        """Return which of `all_objects` are crowds, bool, shape ``(N,)``."""
        return torch.tensor(self._boxes.crowd[self._rows(index)])

    def areas(self, index: int) -> Tensor:
        """Return the area of each of `all_objects` in pixels, float32, shape ``(N,)``."""
        return torch.tensor(self._boxes.areas[self._rows(index)])

    def _rows(self, index: int) -> slice:
        place = self._place[index]
        return slice(self._boxes.ends[place], self._boxes.ends[place + 1])


class ImageCache:
    """Keeps the images that were used last, within a number of bytes; each process has its own.

    Args:
        load: Makes the image of an index.
        max_bytes: Most bytes that are kept; 0 keeps nothing.
    """

    def __init__(self, load: Callable[[int], Tensor], max_bytes: int) -> None:
        self._load = load
        self._max_bytes = max_bytes
        self._images: OrderedDict[int, Tensor] = OrderedDict()
        self.bytes = 0

    def __getitem__(self, index: int) -> Tensor:
        """Return image `index`; it is shared and must not be written to."""
        if index in self._images:
            self._images.move_to_end(index)
            return self._images[index]
        image = self._load(index)
        if image.nbytes <= self._max_bytes:
            self._images[index] = image
            self.bytes += image.nbytes
        while self.bytes > self._max_bytes:
            self.bytes -= self._images.popitem(last=False)[1].nbytes
        return image
