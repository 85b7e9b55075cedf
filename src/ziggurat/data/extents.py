"""Sizes and places in images of any number of dims.

An `Extent` is a size: of rows and columns, of planes, rows and columns, or of samples of one dim. A `Region` is a box of
pixels: where it starts, and its extent. They lie in `data`, the lowest room that needs them: tasks, strategies and inference
import it, and the spatial engine has its own intervals, dim by dim, so neither knows of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor

Extent = tuple[int, ...]


@dataclass(frozen=True)
class Region:
    """A box of pixels; half-open: ``start`` is its first pixel, and ``end`` lies behind its last.

    Attributes:
        start: First pixel, dim by dim; may be negative where it is said of another region.
        size: Pixels along each dim, 0 or more.

    Raises:
        ValueError: If `start` and `size` are not of the same number of dims, or a size is negative.

    Example:
        >>> Region((10, 0), (6, 4)).end
        (16, 4)
    """

    start: Extent
    size: Extent

    def __post_init__(self) -> None:
        if len(self.start) != len(self.size) or min(self.size, default=0) < 0:
            raise ValueError(
                f"a region has as many starts as sizes, and no negative size: got {self.start} and {self.size}"
            )

    @classmethod
    def whole(cls, extent: Extent) -> Region:
        """Return the region of all pixels of an extent."""
        return cls((0,) * len(extent), tuple(extent))

    @classmethod
    def between(cls, start: Iterable[int], end: Iterable[int]) -> Region:
        """Return the region from one corner to another; empty along dims where the end lies before the start."""
        start = tuple(start)
        return cls(start, tuple(max(0, last - first) for first, last in zip(start, end, strict=True)))

    @property
    def end(self) -> Extent:
        """The pixel behind the last, dim by dim."""
        return tuple(start + size for start, size in zip(self.start, self.size, strict=True))

    @property
    def slices(self) -> tuple[slice, ...]:
        """What picks the region out of an array whose dims are the region's."""
        return tuple(slice(first, last) for first, last in zip(self.start, self.end, strict=True))

    @property
    def last_dims(self) -> tuple[EllipsisType | slice, ...]:
        """What picks the region out of an array whose last dims are the region's."""
        return ..., *self.slices

    @property
    def volume(self) -> int:
        """Pixels."""
        return volume(self.size)

    def moved(self, by: Extent) -> Region:
        """Return the region moved along each dim."""
        return Region(tuple(start + step for start, step in zip(self.start, by, strict=True)), self.size)

    def seen_from(self, origin: Extent) -> Region:
        """Return the region as it is counted from another pixel.

        Example:
            >>> Region((10, 3), (6, 4)).seen_from((8, 3))
            Region(start=(2, 0), size=(6, 4))
        """
        return self.moved(tuple(-first for first in origin))

    def intersection(self, other: Region) -> Region:
        """Return what lies in both; empty, and at some place, if nothing does."""
        start = tuple(map(max, self.start, other.start))
        return Region.between(start, map(min, self.end, other.end))

    # Readings of a region of two dims, until all that reads them is written for any number.

    @property
    def top(self) -> int:
        """First row, of two dims."""
        return self.start[-2]

    @property
    def left(self) -> int:
        """First column, of two dims."""
        return self.start[-1]

    @property
    def height(self) -> int:
        """Rows, of two dims."""
        return self.size[-2]

    @property
    def width(self) -> int:
        """Columns, of two dims."""
        return self.size[-1]


class OfTwoDims:
    """Readings of what has an extent of two dims, until all that reads them is written for any number."""

    extent: Extent

    @property
    def height(self) -> int:
        """Rows."""
        return self.extent[-2]

    @property
    def width(self) -> int:
        """Columns."""
        return self.extent[-1]


def volume(extent: Iterable[int]) -> int:
    """Return the pixels of an extent.

    Example:
        >>> volume((3, 4, 5)), volume(())
        (60, 1)
    """
    count = 1
    for size in extent:
        count *= size
    return count


def largest(extents: Iterable[Extent]) -> Extent:
    """Return the smallest extent that holds each of several.

    Example:
        >>> largest([(3, 9), (5, 2)])
        (5, 9)
    """
    return tuple(max(sizes) for sizes in zip(*extents, strict=True))


def rounded_up(extent: Extent, multiple: int) -> Extent:
    """Return the smallest multiples that hold an extent.

    Example:
        >>> rounded_up((5, 8, 9), 8)
        (8, 8, 16)
    """
    return tuple(-(-size // multiple) * multiple for size in extent)


def hull(regions: Sequence[Region]) -> Region:
    """Return the smallest region that holds each of several, one at least."""
    start = tuple(min(firsts) for firsts in zip(*(region.start for region in regions), strict=True))
    return Region.between(start, largest([region.end for region in regions]))


def clip(region: Region, part: Region) -> Region:
    """Return what lies in a part of a region.

    Args:
        region: In pixels of the image.
        part: In pixels of the region, not before its start; may reach beyond it.

    Example:
        >>> clip(Region((10, 0), (6, 4)), Region((4, 0), (4, 4)))
        Region(start=(14, 0), size=(2, 4))
    """
    # what lies behind the region is empty at its end
    start = tuple(map(min, part.start, region.size))
    return Region.between(start, map(min, part.end, region.size)).moved(region.start)


def cut_out(pixels: Tensor, region: Region) -> Tensor:
    """Return the pixels of a region as a tensor of its own; its dims are the last ones."""
    return pixels[region.last_dims].clone(memory_format=torch.contiguous_format)
