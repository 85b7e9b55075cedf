"""Training crops that show much of an image in few pixels: read of a smaller level of its file, or some pixels at a time.

A crop at a sixteenth of an image's size shows 256 times as many pixels as it has. Of a file with levels of resolution the one that fits is read; of any
other, the pixels are read and taken together part by part. Whether that is so depends on the file and the window alone, not on what a cache
holds: the bits of a sample are the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ziggurat.data.dataset import Dataset
from ziggurat.data.extents import Region
from ziggurat.data.readers.images import levels_of, window_of
from ziggurat.data.resampling import PART_PIXELS, READ_PIXELS, Grid, level_for, resized_region
from ziggurat.data.transforms import Window

_HALF = 1.98  # pixels of an image for one of a crop, from which on another level may fit


def reduced_window(
    dataset: Dataset, index: int, window: Window, read: Callable[[Region], Tensor]
) -> Tensor | None:
    """Return the pixels that a window puts into a crop; None where they are those of few pixels at full resolution.

    Args:
        dataset: Holds the image.
        index: Of the image.
        window: Where the crop takes its pixels from.
        read: Returns a region of the image at full resolution, shape ``(C, *size)``; not written to.

    Returns:
        Shape ``(C, *window.target.size)``, in the type of the image.

    Raises:
        UserError: If the image cannot be decoded.
    """
    source, target = window.source, window.target
    factors = [old / new for old, new in zip(source.size, target.size, strict=True)]
    extent = dataset.record(index).extent
    levels = levels_of(dataset, index, extent) if min(factors) >= _HALF else (extent,)
    level = level_for(levels, [size / factor for size, factor in zip(extent, factors, strict=True)])
    if level == 0 and source.volume <= READ_PIXELS:
        return None
    dtype = torch.uint8

    def read_level(region: Region) -> Tensor:
        nonlocal dtype
        pixels = window_of(dataset, index, region, level) if level else read(region)
        assert pixels is not None  # windows of a level can be read
        dtype = pixels.dtype
        return pixels

    scales = [size / whole for size, whole in zip(levels[level], extent, strict=True)]
    places = zip(levels[level], factors, source.start, scales, strict=True)
    grids = [Grid(size, factor * scale, start * scale) for size, factor, start, scale in places]
    pixels = resized_region(read_level, grids, Region.whole(target.size), most=min(PART_PIXELS, READ_PIXELS))
    return pixels if dtype.is_floating_point else pixels.round_().to(dtype)
