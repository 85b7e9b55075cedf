"""Mean, deviation and percentiles of each band over a data set, measured a part of an image at a time, by all workers together.

The parts depend on the images alone. Each is summed up by itself, and the sums of all are added exactly (`math.fsum`), so
that the numbers have the same bits on any number of workers.

Percentiles are for pictures. They are those of about a million samples, equally many of each part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ziggurat.data.dataset import Dataset
from ziggurat.data.extents import Region, cut_out
from ziggurat.data.readers.images import ReadsWindows
from ziggurat.errors import UserError

PART_PIXELS = 1 << 22  # of a part, unless a row is longer
_ROWS = 256  # parts begin at multiples of this, as tiles of files do
_DRAWN = 1 << 20  # samples of a band whose percentiles are taken
_LEAST = 16  # of them in a part, as there may be millions of parts
_GOLDEN = (math.sqrt(5) - 1) / 2
LOW_PERCENTILE, HIGH_PERCENTILE = 2, 98  # that pictures show black and white


@dataclass(frozen=True)
class Unit:
    """What is measured at once.

    Attributes:
        image: Number of the image.
        region: In its pixels.
    """

    image: int
    region: Region


def units_of(dataset: Dataset) -> list[Unit]:
    """Return the parts of all images, in order."""
    units = []
    for index in range(len(dataset)):
        rows, columns = dataset.record(index).extent
        high = max(1, PART_PIXELS // columns)
        high = high // _ROWS * _ROWS if high >= _ROWS else high
        units += [
            Unit(index, Region((top, 0), (min(high, rows - top), columns))) for top in range(0, rows, high)
        ]
    return units


@dataclass(frozen=True)
class Sums:
    """The sums of one part, of each band.

    Attributes:
        counts: Samples that hold something.
        sums: Of these.
        squares: Of their distances from their own mean.
    """

    counts: tuple[int, ...]
    sums: tuple[float, ...]
    squares: tuple[float, ...]


@dataclass(frozen=True)
class Measured:
    """What is known of each band of a data set.

    Attributes:
        mean: Of all samples that hold something.
        std: Their deviation; 0 of a band that is the same everywhere.
        low: The percentile that pictures show black, of the bands that were asked for.
        high: The percentile that they show white; more than `low`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class Measuring:
    """Measures parts of a data set's images.

    Args:
        dataset: The images.
        shown: Places of the bands that pictures show.
        num_units: Parts that all workers measure together.

    Attributes:
        parts: The sums of each part, so far.
        drawn: Some samples of each shown band, part by part.
    """

    def __init__(self, dataset: Dataset, shown: Sequence[int], num_units: int) -> None:
        self._dataset = dataset
        self._count = max(_LEAST, _DRAWN // max(1, num_units))
        self.parts: list[Sums] = []
        self.drawn: dict[int, list[np.ndarray]] = {band: [] for band in shown}
        self._whole: tuple[int, Tensor] | None = None  # the last image that could not be read in parts

    def run(self, units: Iterable[Unit], progress: Callable[[int], None] = lambda done: None) -> None:
        """Measure some parts, those of an image one after the other.

        Raises:
            UserError: If an image cannot be decoded.
        """
        for done, unit in enumerate(units, start=1):
            samples = self._read(unit).numpy()
            self.parts.append(sum_up(samples))
            for band, drawn in self.drawn.items():
                drawn.append(_spread(samples[band], self._count))
            progress(done)

    def _read(self, unit: Unit) -> Tensor:
        known = self._whole
        if known is None or known[0] != unit.image:
            if isinstance(self._dataset, ReadsWindows):
                pixels = self._dataset.window(unit.image, unit.region)
                if pixels is not None:
                    return pixels
            known = self._whole = unit.image, self._dataset.image(unit.image)
        return cut_out(known[1], unit.region)


def sum_up(samples: np.ndarray) -> Sums:
    """Return the sums of a part, shape ``(C, H, W)``; NaN holds nothing.

    Example:
        >>> sum_up(np.array([[[1.0, np.nan, 3.0]]], np.float32))
        Sums(counts=(2,), sums=(4.0,), squares=(2.0,))
    """
    counts, sums, squares = [], [], []
    for band in samples:
        known = band[~np.isnan(band)] if band.dtype.kind == "f" else band.reshape(-1)
        values = known.astype(np.float64)
        total = float(values.sum())
        values -= total / max(1, values.size)
        counts.append(int(values.size))
        sums.append(total)
        squares.append(float(np.square(values, out=values).sum()))
    return Sums(tuple(counts), tuple(sums), tuple(squares))


def joined(parts: Sequence[Sums], drawn: Sequence[np.ndarray]) -> Measured:
    """Return what all parts together say.

    Args:
        parts: One at least, in any order.
        drawn: Samples of each shown band, of all of them.

    Raises:
        UserError: Naming the places, from 1, of bands without any sample that holds something.
    """
    bands = range(len(parts[0].counts))
    empty = [str(band + 1) for band in bands if not any(part.counts[band] for part in parts)]
    if empty:
        raise UserError(
            f"the training images hold nothing in band {' and '.join(empty)} of those that are seen: all samples are NaN, nodata or "
            "transparent; leave such bands out of data.bands"
        )
    mean, std = [], []
    for band in bands:
        count = sum(part.counts[band] for part in parts)
        middle = math.fsum(part.sums[band] for part in parts) / count
        between = (
            part.counts[band] * (part.sums[band] / part.counts[band] - middle) ** 2
            for part in parts
            if part.counts[band]
        )
        mean.append(middle)
        std.append(math.sqrt(math.fsum([*(part.squares[band] for part in parts), *between]) / count))
    limits = [np.percentile(samples, (LOW_PERCENTILE, HIGH_PERCENTILE)).tolist() for samples in drawn]
    return Measured(
        tuple(mean),
        tuple(std),
        tuple(low for low, _ in limits),
        tuple(high if high > low else low + 1 for low, high in limits),
    )


def _spread(samples: np.ndarray, count: int) -> np.ndarray:
    """Return some of the samples that hold something, spread over all places by the golden ratio; all where they are fewer."""
    values = samples.reshape(-1)
    if count < values.size:
        places = (np.arange(count, dtype=np.float64) * _GOLDEN % 1 * values.size).astype(np.int64)
        values = values[places]
    values = values.astype(np.float32)
    known: np.ndarray = values[~np.isnan(values)]
    return known
