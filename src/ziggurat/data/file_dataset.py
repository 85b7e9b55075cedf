"""Data sets of files: images, and boxes, in a compact form.

Boxes, names and sizes live in flat arrays, not in one Python object each: forked loader processes share their pages, and a data
set of a million boxes takes tens of megabytes. Labels and masks are in `labels`, `masks` and `outlines`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ziggurat.data.batch import IGNORED_PIXEL, Objects
from ziggurat.data.dataset import ImageRecord, Spelling, known_spacing
from ziggurat.data.extents import Extent, Region, cut_out
from ziggurat.data.faults import Fault, left_out
from ziggurat.data.packed_strings import PackedStrings
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
