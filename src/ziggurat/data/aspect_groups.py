"""Steps of images of like aspect ratio, whose crops are no larger than what they show: little is computed on padding.

Images that are smaller than the crop stand in a square of black pixels. With groups, the images of a step are wide or high alike, and
its crops have the rows and columns that the largest of them needs::

    squares           groups: one step        another
    +----+ +----+     +----+ +----+           +--+ +--+
    |####| |##  |     |####| |####|           |##| |##|
    |    | |##  |     +----+ +----+           |##| |##|
    +----+ +----+                             +--+ +--+

A crop has the aspect ratio of the images that it is made for: an image that is enlarged (scale jitter above 1) is cut along both dims, not
along the longer one alone. One that is not enlarged shows what it would show in a square, in the same size and colours; only the black
around it is less.

References:
    torchvision, ``references/detection/group_by_aspect_ratio.py`` (``--aspect-ratio-group-factor``), whose bounds are taken.
    Detectron2, ``DATALOADER.ASPECT_RATIO_GROUPING``: two groups.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ziggurat.config import DataConfig
from ziggurat.data.batch import SampleId
from ziggurat.data.crop_sizes import CropShape, at_crop_size, crop_sizes
from ziggurat.data.dataset import Dataset
from ziggurat.data.extents import Extent, largest, rounded_up, volume
from ziggurat.data.samples import TrainingSamples
from ziggurat.data.transforms import resize_factors

MULTIPLE = 32  # of rows and columns: what networks pad to themselves, and few sizes in all


def bounds(factor: int) -> list[float]:
    """Return the aspect ratios, width by height, at which a group ends and the next begins.

    Args:
        factor: Groups between an aspect ratio and its double, 1 or more.

    Example:
        >>> bounds(1), [round(bound, 2) for bound in bounds(2)]
        ([0.5, 1.0, 2.0], [0.5, 0.71, 1.0, 1.41, 2.0])
    """
    return [2.0 ** (number / factor) for number in range(-factor, factor + 1)]


def crop_of(extent: Extent, config: DataConfig, spacing: Sequence[float] | None = None) -> Extent:
    """Return the rows and columns of a crop that shows an image whole at its usual scale, as far as the square crop would.

    Args:
        extent: Of the image.
        config: With the square crop; the usual scale is 1, or what of the scale jitter is nearest to it.
        spacing: As for `resize_factors`.

    Example:
        >>> crop_of((300, 400), DataConfig(crop=350)), crop_of((300, 400), DataConfig(crop=350, scale_max=0.5, scale_min=0.5))
        ((300, 350), (150, 200))
    """
    usual = min(max(1.0, config.scale_min), config.scale_max)
    factors = resize_factors(extent, config, spacing)
    return tuple(
        min(config.crop, math.ceil(size * usual * factor))
        for size, factor in zip(extent, factors, strict=True)
    )


def group_of(extent: Extent, config: DataConfig, spacing: Sequence[float] | None = None) -> int:
    """Return the group of an image: by the aspect ratio of the crop that shows it.

    Example:
        >>> config = DataConfig(crop=100, aspect_grouping=1)
        >>> [group_of(extent, config) for extent in ((90, 30), (80, 60), (60, 80), (30, 90), (500, 900))]
        [0, 1, 2, 3, 2]
    """
    height, width = crop_of(extent, config, spacing)
    return bisect_right(bounds(config.aspect_grouping), width / height)


def smallest_side(dataset: Dataset, config: DataConfig) -> int:
    """Return the rows or columns that a crop has at least, whichever images a step has.

    Args:
        dataset: The images; the size of each is asked for where crops are not square.
        config: Of the crops.
    """
    smallest = min(crop_sizes(config))
    if not config.aspect_grouping:
        return smallest
    small = at_crop_size(config, smallest)
    records = (dataset.record(index) for index in range(len(dataset)))
    return min(min(_canvas([crop_of(one.extent, small, one.spacing)], small)) for one in records)


def _canvas(crops: Sequence[Extent], config: DataConfig) -> Extent:
    """Return the crop that holds some, in multiples of `MULTIPLE`, as far as the square crop would."""
    return tuple(min(config.crop, side) for side in rounded_up(largest(crops), MULTIPLE))


def canvas_of(samples: TrainingSamples, ids: Iterable[SampleId]) -> Extent:
    """Return the rows and columns of the crops of a step: of the largest crop that one of its images needs, in multiples of `MULTIPLE`.

    Args:
        samples: Makes them.
        ids: Of all samples of the step, on every worker.
    """
    records = [samples.dataset.record(samples.image_index(id.sample)) for id in ids]
    return _canvas(
        [crop_of(record.extent, samples.config, record.spacing) for record in records], samples.config
    )


@dataclass(frozen=True)
class Pixels:
    """Pixels of crops.

    Attributes:
        shown: Those that show something of an image.
        all: With those that are padding.
    """

    shown: int = 0
    all: int = 0

    def __add__(self, other: Pixels) -> Pixels:
        return Pixels(self.shown + other.shown, self.all + other.all)

    @property
    def padding(self) -> float:
        """The share of all that is padding."""
        return 1 - self.shown / self.all


def count_pixels(samples: TrainingSamples, shape: CropShape, ids: Sequence[SampleId]) -> Pixels:
    """Return the pixels of crops, whose images are not read.

    Args:
        samples: Makes them.
        shape: Of the crops.
        ids: Of the samples.
    """
    shaped = samples.at(shape)
    return Pixels(sum(volume(shaped.shown_extent(id)) for id in ids), volume(shape.extent) * len(ids))
