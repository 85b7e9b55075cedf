"""A data set whose images are regions of another one's: a part of it, where images are divided into blocks (`blocks`).

A region is read as a window of its image where the file can be read so, in the memory of the region. Everything else is asked of
the data set that it is a part of, so any format and any kind of pixels will do.

**Objects at the edge of a region** are cut to it. Those of which less than ``data.min_visible`` lies within are no objects of the region:
training leaves them out, as it does at the edge of a crop, and the metric ignores them (as COCO's crowds), so that whoever finds the
piece that is seen has made no mistake.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from ziggurat.config import DataConfig
from ziggurat.data.batch import Objects
from ziggurat.data.blocks import Division, Which
from ziggurat.data.dataset import (
    Annotations,
    Dataset,
    ImageRecord,
    SegmentationDataset,
    Spelling,
    all_annotations,
    left_out_of,
    notes_of,
    spelling_of,
    try_decoding,
)
from ziggurat.data.extents import Extent, Region, cut_out
from ziggurat.data.faults import Fault, left_out
from ziggurat.data.readers.images import PART_PIXELS, ReadsWindows


@runtime_checkable
class ReadsMaskWindows(Protocol):
    """Masks of which windows can be read, or drawn."""

    def mask_window(self, index: int, region: Region) -> Tensor | None:
        """Return a window of a mask, uint8, shape ``region.size``, or None if it has to be read as a whole."""
        ...


def mask_in(dataset: SegmentationDataset, index: int, region: Region) -> Tensor:
    """Return a window of the mask of an image, uint8, shape ``region.size``, without the rest of it where that is possible.

    Raises:
        UserError: If the mask cannot be decoded.
    """
    found = dataset.mask_window(index, region) if isinstance(dataset, ReadsMaskWindows) else None
    return dataset.mask(index)[region.slices] if found is None else found


class RegionDataset:
    """Regions of images, whatever the task is.

    Args:
        dataset: Holds the images.
        division: Says which regions of them are of which part.
        part: Which of the parts this is.
        config: How much of what is decoded is kept; what is visible of an object.
    """

    def __init__(self, dataset: Any, division: Division, part: Which, config: DataConfig) -> None:
        self.whole: Dataset = dataset
        self.division, self.part = division, part
        self._places = division.regions[part]
        self._min_visible = config.min_visible
        self._images = _Last(dataset.image, config.cache_bytes)
        self._sound: set[int] = set()  # images that were decoded from end to end
        self._faults: tuple[Fault, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each label."""
        return self.whole.classes

    @property
    def category_ids(self) -> tuple[int, ...]:
        """COCO category id of each label."""
        return self.whole.category_ids

    @property
    def spelled(self) -> Spelling:
        """How the annotations write ids of categories; regions have ids of their own."""
        return Spelling({}, spelling_of(self.whole).categories)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is said of the images, and how they were divided."""
        said = f"data.split=blocks: {self.division}"
        return (*notes_of(self.whole), said, *left_out(self._faults))

    @property
    def left_out(self) -> tuple[Fault, ...]:
        """The faults of annotations, images and regions that were left out."""
        return (*left_out_of(self.whole), *self._faults)

    def without(self, spoiled: Mapping[int, str]) -> Self:
        """Return the data set without some regions, from their indices to what is wrong with each."""
        other = copy.copy(self)
        other._places = tuple(place for index, place in enumerate(self._places) if index not in spoiled)
        faults = [
            Fault(self._file(index), self.record(index).name, f"undecodable region: {why}", "image")
            for index, why in sorted(spoiled.items())
        ]
        other._faults = (*self._faults, *faults)
        return other

    def __len__(self) -> int:
        return len(self._places)

    def place(self, index: int) -> tuple[int, Region]:
        """Return the index of the image that a region is of, and where in it the region lies."""
        return self._places[index]

    def record(self, index: int) -> ImageRecord:
        """Return what is known of a region; its name says where it lies, such as ``north.tif[0:512,512:1024]``."""
        image, region = self._places[index]
        whole = self.whole.record(image)
        where = ",".join(f"{first}:{last}" for first, last in zip(region.start, region.end, strict=True))
        height, width = region.size
        return replace(whole, name=f"{whole.name}[{where}]", image_id=index + 1, height=height, width=width)

    def within(self, index: int) -> Extent:
        """Return the extent of the image that a region is of."""
        return self.whole.record(self._places[index][0]).extent

    def image(self, index: int) -> Tensor:
        """Return the pixels of a region, as its data set has them.

        Raises:
            UserError: If they cannot be decoded.
        """
        image, region = self._places[index]
        pixels = self.window(index, Region.whole(region.size))
        return cut_out(self._images[image], region) if pixels is None else pixels

    def window(self, index: int, region: Region) -> Tensor | None:
        """Read a window of a region without the rest of its file; None where that is not possible."""
        if not isinstance(self.whole, ReadsWindows):
            return None
        image, own = self._places[index]
        return self.whole.window(image, region.moved(own.start))

    def try_decoding(self, index: int) -> None:
        """Decode a region from end to end, and keep nothing of it; of a file that is only read as a whole, all of it, once.

        Raises:
            UserError: As `image`.
        """
        image, own = self._places[index]
        if image in self._sound:
            return
        for part in _bands(own.size):
            if self.window(index, part) is None:
                try_decoding(self.whole, image)
                self._sound.add(image)
                return

    def _file(self, index: int) -> str:
        image = self._places[index][0]
        path: Callable[[int], Path] | None = getattr(self.whole, "path", None)
        return self.whole.record(image).name if path is None else str(path(image))


class ObjectRegions(RegionDataset):
    """Regions of images with boxes."""

    def __init__(self, dataset: Any, division: Division, part: Which, config: DataConfig) -> None:
        super().__init__(dataset, division, part, config)
        self._annotations: dict[tuple[int, Region], Annotations] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What is said of the images and their division, and which classes are not trained on."""
        if self.part == "val" or not self._absent:
            return super().notes
        return (
            *super().notes,
            f"data.split=blocks: no object of {', '.join(self._absent)} lies in the blocks that are trained on; another "
            "data.split_seed or smaller blocks (data.block) may give both parts some",
        )

    @cached_property
    def _absent(self) -> tuple[str, ...]:
        """The classes whose objects all lie beyond these regions, found before a region is left out."""
        here = {label for index in range(len(self)) for label in self.objects(index).labels.tolist()}
        whole: Any = self.whole
        everywhere = {label for image in range(len(whole)) for label in whole.objects(image).labels.tolist()}
        return tuple(self.classes[label] for label in sorted(everywhere - here))

    def objects(self, index: int) -> Objects:
        """Return the objects of a region, in its pixels, as far as they lie within."""
        found = self._seen(index)
        counts = ~found.crowd
        return Objects(found.objects.boxes_xyxy[counts], found.objects.labels[counts])

    def all_objects(self, index: int) -> Objects:
        """Return everything of a region that is annotated, cut to it, with crowds."""
        return self._seen(index).objects

    def crowd(self, index: int) -> Tensor:
        """Return which of `all_objects` are crowds, or lie for the most part beyond the region, bool, shape ``(N,)``."""
        return self._seen(index).crowd

    def areas(self, index: int) -> Tensor:
        """Return the area of each of `all_objects` in pixels, as far as its box lies within, shape ``(N,)``."""
        return self._seen(index).areas

    def _seen(self, index: int) -> Annotations:
        """Return what of a region's image reaches into it."""
        place = self._places[index]
        if place not in self._annotations:
            image, region = place
            every = all_annotations(self.whole, image)  # type: ignore[arg-type]  # made of data sets with objects only
            self._annotations[place] = cut_annotations(
                every, self.whole.record(image).extent, region, self._min_visible
            )
        return self._annotations[place]


def cut_annotations(every: Annotations, extent: Extent, region: Region, min_visible: float) -> Annotations:
    """Return annotations as a region of their image has them; see the module's rule for its edge.

    Args:
        every: Of the image.
        extent: Of the image; what reaches beyond it is no part of an object.
        region: Of the image.
        min_visible: Share of an object's box that lies within at least, else it is ignored.
    """
    boxes = _clipped(every.objects.boxes_xyxy, Region.whole(extent))
    inside = _clipped(boxes, region)
    area = _areas(inside)
    share = area / _areas(boxes).clamp(min=torch.finfo(area.dtype).tiny)
    there = area > 0
    left, top = region.start[-1], region.start[-2]
    moved = inside - inside.new_tensor([left, top] * 2)
    return Annotations(
        Objects(moved[there], every.objects.labels[there]),
        (every.areas * share)[there],
        (every.crowd | (share < min_visible))[there],
    )


def _clipped(boxes_xyxy: Tensor, region: Region) -> Tensor:
    low = boxes_xyxy.new_tensor([*reversed(region.start)] * 2)
    high = boxes_xyxy.new_tensor([*reversed(region.end)] * 2)
    return torch.minimum(torch.maximum(boxes_xyxy, low), high)


def _areas(boxes_xyxy: Tensor) -> Tensor:
    return (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clamp(min=0).prod(dim=1)


class MaskRegions(RegionDataset):
    """Regions of images with a label for each pixel."""

    def __init__(self, dataset: Any, division: Division, part: Which, config: DataConfig) -> None:
        super().__init__(dataset, division, part, config)
        self._masks = _Last(dataset.mask, config.cache_bytes // 4)

    def mask(self, index: int) -> Tensor:
        """Return the label of each pixel of a region, uint8, shape ``(H, W)``.

        Raises:
            UserError: If the mask cannot be decoded.
        """
        image, region = self._places[index]
        found = self.whole.mask_window(image, region) if isinstance(self.whole, ReadsMaskWindows) else None
        return cut_out(self._masks[image], region) if found is None else found


class _Last:
    """Keeps what was made last, if it is small enough: regions of an image are mostly asked for one after the other.

    Several threads may ask: each takes what it finds, or makes its own.

    Args:
        make: Makes the tensor of an index.
        max_bytes: Of a tensor that is kept.
    """

    def __init__(self, make: Callable[[int], Tensor], max_bytes: int) -> None:
        self._make, self._max_bytes = make, max_bytes
        self._last: tuple[int, Tensor] | None = None

    def __getitem__(self, index: int) -> Tensor:
        last = self._last
        if last is not None and last[0] == index:
            return last[1]
        self._last = last = None  # not two at once
        made = self._make(index)
        if made.nbytes <= self._max_bytes:
            self._last = (index, made)
        return made


def _bands(extent: Extent) -> Iterator[Region]:
    """Yield bands of a region's rows, as many as are decoded at once."""
    rows, columns = extent
    high = max(1, PART_PIXELS // columns)
    for top in range(0, rows, high):
        yield Region((top, 0), (min(high, rows - top), columns))
