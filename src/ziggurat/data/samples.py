"""The samples that a model is trained on: random crops, each a pure function of (seed, epoch, sample)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from torch import Tensor

from ziggurat.config import DataConfig
from ziggurat.data.batch import Part, Sample, SampleId, Target
from ziggurat.data.crop_sizes import at_crop_size
from ziggurat.data.dataset import (
    ClassificationDataset,
    Dataset,
    DetectionDataset,
    ImageCache,
    SegmentationDataset,
)
from ziggurat.data.parts import augment_part, needs_whole_window
from ziggurat.data.randomness import Purpose, keyed_generator
from ziggurat.data.readers.windows import ReadsWindows
from ziggurat.data.tiles import Tile, cut_out
from ziggurat.data.transforms import (
    Augmentation,
    augment_image,
    augment_mask,
    augment_objects,
    draw_augmentation,
    resize_factor,
)


def _whole(side: int) -> None:
    """Take crops of every side whole."""


class TrainingSamples:
    """Augmented crops of a data set.

    A large image counts for as many samples as crops fit into its area, so that an epoch sees about every pixel
    once, and objects are seen equally often in large and in small images. An image with one label is one sample.

    Args:
        dataset: The images; what they are annotated with says what a sample's target is.
        config: The crop, and what may happen to it.
        seed: The run's seed.
        part: The part of each crop that is wanted; None for all of it.
        part_of: From a side to the part of crops that have it.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: DataConfig,
        seed: int,
        part: Part | None = None,
        part_of: Callable[[int], Part | None] = _whole,
    ) -> None:
        self.dataset = dataset
        self.config = config
        self.seed = seed
        self.part, self.part_of = part, part_of
        counts = [self._samples_of(index) for index in range(len(dataset))]
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._images = ImageCache(dataset.image, config.cache_bytes)
        self._whole: set[int] = set()  # images that have been decoded from end to end
        if isinstance(dataset, SegmentationDataset):
            self._masks = ImageCache(dataset.mask, config.cache_bytes // 4)  # an image has three channels

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def at(self, side: int) -> TrainingSamples:
        """Return the same samples in crops of another side; what is cached is shared."""
        if side == self.config.crop:
            return self
        other = copy.copy(self)
        other.config, other.part = at_crop_size(self.config, side), self.part_of(side)
        return other

    def image_index(self, sample: int) -> int:
        """Return the image that sample number `sample` is cut from."""
        return int(np.searchsorted(self._ends, sample, side="right"))

    def sample(self, id: SampleId) -> Sample:
        """Return one sample: the same bits in every process, in every order.

        Returns:
            A crop of ``(3, crop, crop)``, uint8, or a part of it; and its target.

        Raises:
            UserError: If the image cannot be decoded.
        """
        index = self.image_index(id.sample)
        if self.config.on_error == "skip" and index not in self._whole:
            _ = self._images[index]  # a window of it may be readable where the whole is not
            self._whole.add(index)
        record = self.dataset.record(index)
        generator = keyed_generator(self.seed, Purpose.AUGMENTATION, id.epoch, id.sample)
        augmentation = draw_augmentation(generator, record.height, record.width, self.config)
        return Sample(id, self._image(index, augmentation), self._target(index, augmentation), self.part)

    def replacements(self, id: SampleId) -> Iterator[SampleId]:
        """Yield what may stand in the place of a sample whose image cannot be read: the first of each next image."""
        own, num_images = self.image_index(id.sample), len(self.dataset)
        for distance in range(1, num_images):
            index = (own + distance) % num_images
            yield SampleId(id.epoch, int(self._ends[index - 1]) if index else 0)

    def describe(self, id: SampleId) -> str:
        """Name a sample in a message: its number, epoch and image."""
        name = self.dataset.record(self.image_index(id.sample)).name
        return f"{id.sample} of epoch {id.epoch} ({name})"

    def _image(self, index: int, augmentation: Augmentation) -> Tensor:
        crop = self.config.crop
        if self.part is not None and not needs_whole_window(augmentation):
            return augment_part(lambda tile: self._read(index, tile), augmentation, crop, self.part.tile)
        window, record = augmentation.window, self.dataset.record(index)
        if 3 * record.height * record.width > self.config.cache_bytes:  # it would be decoded anew each time
            pixels = self._read(index, Tile(window.top, window.left, window.height, window.width))
            augmentation = replace(augmentation, window=replace(window, top=0, left=0))
        else:
            pixels = self._images[index]
        image = augment_image(pixels, augmentation, crop)
        return image if self.part is None else cut_out(image, self.part.tile)

    def _read(self, index: int, tile: Tile) -> Tensor:
        """Return a window of an image, read from its file without the rest where that is possible."""
        pixels = self.dataset.window(index, tile) if isinstance(self.dataset, ReadsWindows) else None
        return cut_out(self._images[index], tile) if pixels is None else pixels

    def _target(self, index: int, augmentation: Augmentation) -> Target:
        crop, dataset = self.config.crop, self.dataset
        if isinstance(dataset, DetectionDataset):
            return augment_objects(dataset.objects(index), augmentation, crop, self.config.min_visible)
        if isinstance(dataset, ClassificationDataset):
            return dataset.label(index)
        mask = augment_mask(self._masks[index], augmentation, crop)
        return mask if self.part is None else cut_out(mask, self.part.own)

    def _samples_of(self, index: int) -> int:
        if isinstance(self.dataset, ClassificationDataset):
            return 1
        record = self.dataset.record(index)
        factor = resize_factor(record.height, record.width, self.config.resize, self.config.resize_limit)
        return max(1, round(record.height * record.width * factor**2 / self.config.crop**2))
