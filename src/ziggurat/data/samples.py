"""The samples that a model is trained on: random crops, each a pure function of (seed, epoch, sample)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ziggurat.config import DataConfig
from ziggurat.data.batch import Part, Sample, SampleId
from ziggurat.data.crop_sizes import CropShape, at_crop_size
from ziggurat.data.dataset import Dataset, try_decoding
from ziggurat.data.extents import Extent, Region, cut_out, volume
from ziggurat.data.image_cache import ImageCache
from ziggurat.data.parts import augment_part, needs_whole_window
from ziggurat.data.randomness import Purpose, keyed_generator
from ziggurat.data.rare_crops import LocatesClasses, RareCrops
from ziggurat.data.readers.images import ReadsWindows
from ziggurat.data.readers.layout import Reading
from ziggurat.data.reduced import reduced_window
from ziggurat.data.regions import RegionDataset
from ziggurat.data.targets import TargetKind
from ziggurat.data.transforms import Augmentation, Window, augment_image, draw_augmentation, shown_extent


def _whole(extent: Extent) -> None:
    """Take crops of every extent whole."""


def nothing_like(config: DataConfig) -> Tensor:
    """Return an image without pixels, of the bands and type that a config reads: shape ``(C, 0, 0)``."""
    reading = Reading.of(config)
    return torch.empty(
        (reading.num_bands, 0, 0), dtype=torch.uint8 if reading.bands is None else torch.float32
    )


class TrainingSamples:
    """Augmented crops of a data set.

    An image counts for as many samples as the kind of targets says: a large image for as many as crops fit into its
    area, or for one.

    Args:
        dataset: The images, with the annotations that the kind of targets reads.
        kind: Reads and cuts the targets: of the run's task.
        config: The crop, and what may happen to it.
        seed: The run's seed.
        part: The part of each crop that is wanted; None for all of it.
        part_of: From rows and columns to the part of crops that have them.
        rare: Places some of the crops around rare classes, which the kind of targets locates; None lets all lie anywhere.
    """

    def __init__(
        self,
        dataset: Dataset,
        kind: TargetKind,
        config: DataConfig,
        seed: int,
        part: Part | None = None,
        part_of: Callable[[Extent], Part | None] = _whole,
        rare: RareCrops | None = None,
    ) -> None:
        self.dataset = dataset
        self.kind = kind
        self.config = config
        self.seed = seed
        self.part, self.part_of = part, part_of
        self.rare = rare
        self.canvas: Extent | None = None
        counts = [kind.num_samples(dataset, index, config) for index in range(len(dataset))]
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._like = nothing_like(config)
        self._images = ImageCache(dataset.image, config.cache_bytes)
        self._whole: set[int] = set()  # images that have been decoded from end to end
        # an image has three channels, a target perhaps one
        self._targets = ImageCache(self._read_target, config.cache_bytes // 4)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def at(self, shape: CropShape) -> TrainingSamples:
        """Return the same samples in crops of another shape; what is cached is shared."""
        if shape == CropShape(self.config.crop, self.canvas):
            return self
        other = copy.copy(self)
        other.config, other.canvas = at_crop_size(self.config, shape.side), shape.canvas
        other.part = self.part_of(shape.extent)
        return other

    def whole(self) -> TrainingSamples:
        """Return the same samples, each whole; what is cached is shared."""
        other = copy.copy(self)
        other.part, other.part_of = None, _whole
        return other

    def anywhere(self) -> TrainingSamples:
        """Return the same samples, none of which is placed around a rare class; what is cached is shared."""
        other = copy.copy(self)
        other.rare = None
        return other

    def of_images(self, values: np.ndarray) -> np.ndarray:
        """Return for each sample the value of the image that it is cut from, from one value for each image."""
        return np.repeat(values, np.diff(self._ends, prepend=0))

    def image_index(self, sample: int) -> int:
        """Return the image that sample number `sample` is cut from."""
        return int(np.searchsorted(self._ends, sample, side="right"))

    def sample(self, id: SampleId) -> Sample:
        """Return one sample: the same bits in every process, in every order.

        Returns:
            A crop of ``(C, crop, crop)``, or of the canvas, uint8 or float32, or a part of it; and its target.

        Raises:
            UserError: If the image cannot be decoded.
        """
        index = self.image_index(id.sample)
        if self.config.on_error == "skip" and index not in self._whole:
            self._try_decoding(index)  # a window of it may be readable where the whole is not
            self._whole.add(index)
        augmentation = self._augmentation(id, index)
        return Sample(id, self._image(index, augmentation), self._target(index, augmentation), self.part)

    def target(self, id: SampleId) -> Any:
        """Return the target of a sample, as `sample` does, without its image.

        Raises:
            UserError: If the annotations cannot be read.
        """
        index = self.image_index(id.sample)
        return self._target(index, self._augmentation(id, index))

    def _augmentation(self, id: SampleId, index: int) -> Augmentation:
        record, focus = self.dataset.record(index), None
        if self.rare is not None and isinstance(self.kind, LocatesClasses):
            focus = self.rare.focus(id, self.kind, self._whole_target(index), len(record.extent))
        generator = keyed_generator(self.seed, Purpose.AUGMENTATION, *id.key)
        return draw_augmentation(generator, record.extent, self.config, record.spacing, focus, self.canvas)

    def shown_extent(self, id: SampleId) -> Extent:
        """Return the rows and columns that a sample fills of its crop; the image is not read."""
        record = self.dataset.record(self.image_index(id.sample))
        generator = keyed_generator(self.seed, Purpose.AUGMENTATION, *id.key)
        return shown_extent(generator, record.extent, self.config, record.spacing, self.canvas)

    def _try_decoding(self, index: int) -> None:
        """Decode an image; one that fits into the cache stays there."""
        if self._is_kept(index):
            _ = self._images[index]
        else:
            try_decoding(self.dataset, index)

    def _is_kept(self, index: int) -> bool:
        """Whether a decoded image, or the one that it is a region of, fits into the cache, and may be decoded as a whole."""
        dataset = self.dataset
        extent = dataset.within(index) if isinstance(dataset, RegionDataset) else dataset.record(index).extent
        bytes_of_pixel = len(self._like) * self._like.element_size()
        return (
            bytes_of_pixel * volume(extent) <= self.config.cache_bytes
            and volume(extent) <= self.config.max_pixels
        )

    def replacements(self, id: SampleId) -> Iterator[SampleId]:
        """Yield what may stand in the place of a sample whose image cannot be read: the first of each next image."""
        own, num_images = self.image_index(id.sample), len(self.dataset)
        for distance in range(1, num_images):
            index = (own + distance) % num_images
            yield SampleId(id.epoch, int(self._ends[index - 1]) if index else 0, id.repeat)

    def describe(self, id: SampleId) -> str:
        """Name a sample in a message: its number, epoch and image."""
        name = self.dataset.record(self.image_index(id.sample)).name
        again = f", repeat {id.repeat}" if id.repeat else ""
        return f"{id.sample} of epoch {id.epoch}{again} ({name})"

    def _image(self, index: int, augmentation: Augmentation) -> Tensor:
        crop = self.config.crop
        if self.part is not None and not needs_whole_window(augmentation):
            return augment_part(
                lambda region: self._read(index, region), augmentation, crop, self.part.tile, self._like
            )
        window = augmentation.window
        reduced = reduced_window(self.dataset, index, window, lambda region: self._seen(index, region))
        if reduced is not None:
            pixels = reduced
            read = Window(Region.whole(window.target.size), window.target)
            augmentation = replace(augmentation, window=read)
        elif not self._is_kept(index):  # it would be decoded anew each time
            pixels = self._read(index, window.source)
            read = Window(Region.whole(window.source.size), window.target)
            augmentation = replace(augmentation, window=read)
        else:
            pixels = self._images[index]
        image = augment_image(pixels, augmentation, crop)
        return image if self.part is None else cut_out(image, self.part.tile)

    def _seen(self, index: int, region: Region) -> Tensor:
        """Return a window of an image, which may lie in the cache and is not to be written to."""
        return self._images[index][region.last_dims] if self._is_kept(index) else self._read(index, region)

    def _read(self, index: int, region: Region) -> Tensor:
        """Return a window of an image, read from its file without the rest where that is possible."""
        pixels = self.dataset.window(index, region) if isinstance(self.dataset, ReadsWindows) else None
        return cut_out(self._images[index], region) if pixels is None else pixels

    def _target(self, index: int, augmentation: Augmentation) -> Any:
        return self.kind.cut(self._whole_target(index), augmentation, self.config, self.part)

    def _whole_target(self, index: int) -> Any:
        return self._targets[index] if self.kind.is_cached else self._read_target(index)

    def _read_target(self, index: int) -> Any:
        return self.kind.read(self.dataset, index)
