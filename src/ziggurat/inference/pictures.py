"""The pictures of a prediction: as large as the image, or an overview of it that is read and drawn in bounded memory."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.data.extents import Extent, Region, volume
from ziggurat.data.views import View
from ziggurat.errors import UserError
from ziggurat.inference.reading import Images, RegionReader
from ziggurat.visualize.composite import SHOWN_AS_THEY_ARE, Composite

Pictures = Literal["auto", "none", "overview", "full"]
CHOICES: tuple[Pictures, ...] = ("auto", "none", "overview", "full")
OVERVIEW_SIDE = 2048  # pixels of an overview's longer side, at most
FULL_PIXELS = 16_000_000  # of an image that ``auto`` draws in full
BAND_PIXELS = 1 << 22  # that are read at once


def picture_extent(extent: Extent, pictures: Pictures) -> Extent | None:
    """Return the extent of an image's picture; None for no picture.

    An overview has one pixel for a whole number of the image's along each dim.

    Example:
        >>> picture_extent((3000, 5000), "auto"), picture_extent((3000, 6001), "auto")
        ((3000, 5000), (1000, 2001))
    """
    if pictures == "none":
        return None
    if pictures == "full" or (pictures == "auto" and volume(extent) <= FULL_PIXELS):
        return extent
    factor = _factor(extent)
    return tuple(-(-size // factor) for size in extent)


def _factor(extent: Extent) -> int:
    return -(-max(extent) // OVERVIEW_SIDE)


def read_picture(
    images: Images, index: int, extent: Extent, composite: Composite = SHOWN_AS_THEY_ARE
) -> Tensor:
    """Return an image in the extent of its picture: each pixel the mean of its own.

    Args:
        images: As they lie in their files.
        index: Of the image.
        extent: As `picture_extent` gives it.
        composite: What is shown of the images.

    Returns:
        RGB, uint8, shape ``(3, *extent)``.

    Raises:
        UserError: If the image cannot be decoded.
    """
    whole = images.record(index).extent
    if extent == whole:
        return composite(images.image(index))
    factor = _factor(whole)
    rows = max(1, BAND_PIXELS // whole[1] // factor) * factor
    tops = range(0, whole[0], rows)
    bands = [Region((top, 0), (min(rows, whole[0] - top), whole[1])) for top in tops]
    reader = RegionReader(images, {index: View(whole, ())})
    smaller = torch.empty(
        (3, *extent), dtype=torch.uint8
    )  # at once: small tensors between large ones would hold these
    for band in bands:
        pixels = reader.read(index, band, more=band is not bands[-1])
        if isinstance(pixels, UserError):
            raise pixels
        # where a pixel reaches beyond the image, the mean is that of what lies within
        mean = functional.avg_pool2d(composite(pixels)[None].float(), factor, ceil_mode=True)[0]
        first = band.top // factor
        smaller[:, first : first + mean.shape[1]] = mean.round()
    return smaller
