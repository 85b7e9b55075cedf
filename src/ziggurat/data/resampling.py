"""Resampling images to another size, region by region: any region has the bits that it has in the whole.

A pixel of the resized image is a weighted mean of the pixels around its place, along one dim and then along the other. The weights are those of
PyTorch's bilinear interpolation with antialias: a triangle as wide as the resized pixels, so that what becomes smaller is smoothed::

    source      |   |   |   |   |   |   |   |   |   |        two resized pixels are five of the source
    resized     |         |         |         |              weights of one: a triangle over two of its widths
                     .-'|'-.

They depend on the pixel's place in the whole alone, and are added in one order, without a library whose order depends on the shape: so of a large
image only the pixels around a region are read, and where regions begin changes no bit.

Shapes: ``C`` bands; ``n`` pixels of a resized dim, of each of which ``K`` pixels of the source take part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ziggurat.data.extents import Extent, Region

READ_PIXELS = 1 << 22  # of a source that is rather read at once than part by part
PART_PIXELS = (
    1 << 20
)  # of the source, that are read and taken together at once: a few times as many bytes are needed on the way
_BAND = 256  # rows of the source that are rather read in full width than cut: strips and rows of tiles are decoded once
_EQUAL = 0.01  # a level that is coarser by less is not coarser: scanners' levels are 4.0002 times smaller


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a resized dim lie in the dim that they are made of.

    Attributes:
        size: Pixels of the source.
        step: Pixels of the source for one of the resized dim.
        start: Where the first resized pixel begins, in pixels of the source.
    """

    size: int
    step: float
    start: float = 0.0

    @property
    def is_copy(self) -> bool:
        """Whether each pixel is one of the source."""
        return self.step == 1 and self.start == int(self.start)


def grids_of(extent: Extent, resized: Extent) -> list[Grid]:
    """Return the grid of each dim of an image that is resized as a whole."""
    return [Grid(size, size / new) for size, new in zip(extent, resized, strict=True)]


@dataclass(frozen=True)
class Taps:
    """Which pixels of a source dim make up some pixels of the resized one.

    Attributes:
        start: The first pixel that takes part.
        size: From there to the last one.
        places: Counted from `start`, int64, shape ``(n, K)``.
        weights: Of each; those of a resized pixel add up to 1; float32, shape ``(n, K)``.
        grid: Of the whole dim.
    """

    start: int
    size: int
    places: Tensor
    weights: Tensor
    grid: Grid


def taps(grid: Grid, first: int, count: int, antialias: bool = True) -> Taps:
    """Return what makes up some neighbouring pixels of a resized dim.

    Args:
        grid: The whole dim.
        first: The first of the pixels.
        count: How many, 1 or more.
        antialias: Whether the triangle is as wide as the resized pixels where these are larger; else it is one pixel's to each side.

    Example:
        >>> found = taps(Grid(size=6, step=2.0), first=1, count=1)
        >>> found.start, found.weights.tolist()
        (1, [[0.125, 0.375, 0.375, 0.125]])

    References:
        PyTorch, ``compute_indices_min_size_weights_aa`` in ``aten/src/ATen/native/cpu/UpSampleKernel.cpp``.
    """
    if grid.is_copy:
        return Taps(int(grid.start) + first, count, torch.arange(count)[:, None], torch.ones(count, 1), grid)
    reach = max(grid.step, 1.0) if antialias else 1.0
    centres = grid.start + (np.arange(first, first + count, dtype=np.float64) + 0.5) * grid.step
    most = math.ceil(2 * reach - 1e-9)  # pixels whose middles lie within the reach
    places = np.floor(centres - reach - 0.5)[:, None] + 1 + np.arange(most)
    weights = np.maximum(1 - np.abs(places + 0.5 - centres[:, None]) / reach, 0)
    weights[(places < 0) | (places >= grid.size)] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    # what takes no part is not read: it may lie outside, or hold nothing
    nearest = np.take_along_axis(places, weights.argmax(axis=1, keepdims=True), axis=1)
    places = np.where(weights > 0, places, nearest).astype(np.int64)
    begin, end = int(places.min()), int(places.max()) + 1
    places, weights = places - begin, weights.astype(np.float32)
    return Taps(begin, end - begin, torch.from_numpy(places), torch.from_numpy(weights), grid)


def resample(pixels: Tensor, by_dim: Sequence[Taps]) -> Tensor:
    """Return resized pixels, float32, shape ``(C, n, ...)``.

    Args:
        pixels: Those that take part, of any type, shape ``(C, *sizes)`` with the taps' sizes; not written to. NaN spreads to
            every resized pixel that it takes part in.
        by_dim: Of each dim.
    """
    # what becomes smallest first: less is left to do; of equals the dim that needs no turning of the larger picture
    steps = [one.grid.step for one in by_dim]
    order = sorted(range(len(steps)), key=lambda dim: (-steps[dim], dim if steps[dim] > 1 else -dim))
    for dim in order:
        if not by_dim[dim].grid.is_copy:
            pixels = _along(pixels.movedim(1 + dim, 1), by_dim[dim]).movedim(1, 1 + dim)
    return pixels.to(torch.float32, memory_format=torch.contiguous_format)


def _along(pixels: Tensor, one: Taps) -> Tensor:
    """Resample along the first dim behind the bands.

    Products and sums are made one by one, not in a matrix product: whose order of summation, and so whose bits, depend on its shape.
    """
    pixels = pixels.contiguous()  # whole rows are copied, not each pixel
    weight_shape = (-1, *[1] * (pixels.dim() - 2))
    total: Tensor | None = None
    for places, weights in zip(one.places.unbind(1), one.weights.unbind(1), strict=True):
        part = pixels.index_select(1, places).to(torch.float32).mul_(weights.view(weight_shape))
        total = part if total is None else total.add_(part)
    assert total is not None  # one pixel takes part at least
    return total


def resized_region(
    read: Callable[[Region], Tensor],
    grids: Sequence[Grid],
    region: Region,
    antialias: bool = True,
    most: int = PART_PIXELS,
) -> Tensor:
    """Return a region of a resized image from those pixels that make it up, some of which are read at a time.

    Args:
        read: Returns a region of the source, shape ``(C, *size)``.
        grids: Of each dim.
        region: In pixels of the resized image; not empty.
        antialias: As for `taps`.
        most: Pixels of the source that are read at once; more only where a single resized pixel is made of more.

    Returns:
        float32, shape ``(C, *region.size)``: the same bits whatever the region, and `most`, are.
    """
    found: Tensor | None = None
    for part, by_dim in _parts(grids, region, antialias, most):
        pixels = resample(read(_source(by_dim)), by_dim)
        if part == region:
            return pixels
        if found is None:
            found = pixels.new_empty((len(pixels), *region.size))
        found[part.seen_from(region.start).last_dims] = pixels
    assert found is not None
    return found


def _parts(
    grids: Sequence[Grid], region: Region, antialias: bool, most: int
) -> Iterator[tuple[Region, list[Taps]]]:
    """Yield parts of a region, and what makes up each: no more pixels than `most`, where that can be."""
    by_dim = [
        taps(grid, first, count, antialias)
        for grid, first, count in zip(grids, region.start, region.size, strict=True)
    ]
    source = _source(by_dim)
    if source.volume <= most or region.volume == 1:
        yield region, by_dim
        return
    dim = 0 if source.size[0] > _BAND and region.size[0] > 1 else source.size.index(max(source.size))
    if region.size[dim] == 1:
        dim = region.size.index(max(region.size))
    half = region.size[dim] // 2
    for start, size in ((0, half), (half, region.size[dim] - half)):
        starts, sizes = list(region.start), list(region.size)
        starts[dim], sizes[dim] = starts[dim] + start, size
        yield from _parts(grids, Region(tuple(starts), tuple(sizes)), antialias, most)


def _source(by_dim: Sequence[Taps]) -> Region:
    return Region(tuple(one.start for one in by_dim), tuple(one.size for one in by_dim))


def level_for(levels: Sequence[Extent], wanted: Sequence[float]) -> int:
    """Return the coarsest level of an image that is not coarser than it is wanted.

    What is nearest may be coarser: the image would be enlarged, and lack what it has. From the level before, which is less than one step
    finer, it is made smaller, with all that its pixels can show.

    Args:
        levels: Rows and columns of each, the finest first.
        wanted: Rows and columns that the whole image has once it is resized.

    Example:
        >>> levels = [(4000, 4000), (2000, 2000), (1000, 1000)]
        >>> level_for(levels, (1000, 1000)), level_for(levels, (1500, 1500)), level_for(levels, (9000, 9000))
        (2, 1, 0)
    """
    fine = [
        number
        for number, level in enumerate(levels)
        if all(size >= (1 - _EQUAL) * new for size, new in zip(level, wanted, strict=True))
    ]
    return max(fine, key=lambda number: (-math.prod(levels[number]), number), default=0)
