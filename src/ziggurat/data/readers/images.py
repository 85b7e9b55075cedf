"""Image files as tensors, whole or in part: a reader's samples, by the rule of `composite`.

``data.max_pixels`` bounds what is decoded at once: the whole image where it is asked for, or where its file cannot be read in parts; else a region.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ziggurat.data.extents import Extent, Region, volume
from ziggurat.data.readers.composite import check_reading, own_samples, read_pixels, shown_bands
from ziggurat.data.readers.layout import AS_THEY_ARE, Reading
from ziggurat.data.readers.opened import ImageInfo, OpenedImage
from ziggurat.data.readers.pages import split_page
from ziggurat.data.readers.registry import open_image_file
from ziggurat.data.readers.sample_range import SampleRange, eight_bits, is_deep
from ziggurat.errors import UserError

PART_PIXELS = 1 << 22  # of an image that is decoded part by part, one row of strips or tiles at least
_COMMON_TILE = (256, 256)  # where any region is read by itself
BYTES_OF_A_PIXEL = 16  # most of one that ``data.max_pixels`` counts as one


@runtime_checkable
class ReadsWindows(Protocol):
    """Images of which windows can be read, where their files can."""

    def window(self, index: int, region: Region) -> Tensor | None:
        """Return a window of an image, RGB, uint8, or None if it has to be read as a whole."""
        ...


@runtime_checkable
class ReadsLevels(Protocol):
    """Images of which windows can be read at several levels of resolution, where their files have them."""

    def levels(self, index: int) -> tuple[Extent, ...]:
        """Return the rows and columns of each level, the finest first: the image itself."""
        ...

    def window(self, index: int, region: Region, level: int = 0) -> Tensor | None:
        """Return a window of a level of an image, in the level's pixels; never None of a level beyond the first."""
        ...


def levels_of(images: Any, index: int, extent: Extent) -> tuple[Extent, ...]:
    """Return the rows and columns of each level at which windows of an image can be read: one, `extent`, where it has no others.

    Raises:
        UserError: If its header cannot be read.
    """
    return images.levels(index) if isinstance(images, ReadsLevels) else (extent,)


def window_of(images: Any, index: int, region: Region, level: int = 0) -> Tensor | None:
    """Return a window of a level of an image; None if it has to be read as a whole, which those beyond the first never have.

    Raises:
        UserError: If it cannot be decoded.
    """
    if level and isinstance(images, ReadsLevels):
        return images.window(index, region, level)
    return images.window(index, region) if isinstance(images, ReadsWindows) else None


@runtime_checkable
class KnowsBlanks(Protocol):
    """Images some pixels of which may hold nothing."""

    def blank(self, index: int, region: Region) -> Tensor | None:
        """Return where in a region no band that is read holds anything, bool, shape ``region.size``; None if that is nowhere."""
        ...


def blanks_of(images: Any, index: int, region: Region) -> Tensor | None:
    """Return where in a region of an image no band that is read holds anything; None if that is nowhere, or nobody knows.

    Raises:
        UserError: If it cannot be decoded.
    """
    return images.blank(index, region) if isinstance(images, KnowsBlanks) else None


@dataclass(frozen=True)
class Header:
    """What an image's header says of pixels that will be read.

    Attributes:
        extent: Rows and columns, upright.
        orientation: The EXIF orientation: 1 if the image is upright in its file, from 5 on rows and columns are exchanged.
    """

    extent: tuple[int, int]
    orientation: int = 1

    @property
    def is_turned(self) -> bool:
        """Whether the image lies on its side in its file."""
        return self.orientation >= 5


@contextmanager
def opened(path: Path, max_pixels: int, reading: Reading | None = None) -> Iterator[OpenedImage]:
    """Open an image for the body, if no more than a number of pixels has to be decoded at once.

    Args:
        path: The image, or a page of it.
        max_pixels: That number.
        reading: How its samples will become pixels; None where they will not.

    Raises:
        UserError: If there is no such image, it cannot be read, or not by the rule.
    """
    with open_image_file(path) as image:
        if image.info.block is not None:
            check_at_once(path, image.info, image.info.block, max_pixels)
        if reading is not None:
            check_reading(path, image.info, reading, split_page(path)[1])
        yield image


def check_at_once(path: Path, info: ImageInfo, extent: Extent, max_pixels: int) -> None:
    """Refuse to decode more pixels at once than ``data.max_pixels``, or as many of very many bands.

    Raises:
        UserError: If it is more.
    """
    sides, remedy = (
        " x ".join(map(str, reversed(extent))),
        "raise data.max_pixels if it is meant to be that large",
    )
    if volume(extent) > max_pixels:
        raise UserError(
            f"the image {path} has {volume(extent)} pixels ({sides}), more than data.max_pixels={max_pixels}: {remedy}"
        )
    size = info.bands * np.dtype(info.dtype).itemsize
    if volume(extent) * size > max_pixels * BYTES_OF_A_PIXEL:
        raise UserError(
            f"the image {path} has {volume(extent)} pixels ({sides}) of {size} bytes, more than data.max_pixels={max_pixels} "
            f"of {BYTES_OF_A_PIXEL} bytes: {remedy}"
        )


def image_size(path: Path, max_pixels: int) -> tuple[int, int]:
    """Return an image's rows and columns, upright, from its header.

    Raises:
        UserError: If there is no such image, it cannot be read, or more than `max_pixels` pixels have to be decoded at once.
    """
    with opened(path, max_pixels) as image:
        rows, columns = image.info.extent
        return rows, columns


def read_header(path: Path, max_pixels: int, reading: Reading) -> Header:
    """Return what the header of an image says whose pixels will be read.

    Raises:
        UserError: As `image_size`, and if its samples are none that the rule holds for.
    """
    with opened(path, max_pixels, reading) as image:
        rows, columns = image.info.extent
        return Header((rows, columns), image.info.orientation)


def inspect_image(path: Path, max_pixels: int, reading: Reading) -> tuple[int, int]:
    """Return the rows and columns of an image whose pixels will be read, from its header.

    Raises:
        UserError: As `read_header`.
    """
    return read_header(path, max_pixels, reading).extent


def read_image(path: Path, max_pixels: int, reading: Reading = AS_THEY_ARE) -> Tensor:
    """Decode an image, upright.

    Args:
        path: The image file, or a page of it.
        max_pixels: Larger images are refused by their header, before they are decoded.
        reading: How samples become pixels; by default by natural ranges, and what a file has beside one picture is refused.

    Returns:
        RGB, uint8, shape ``(3, H, W)``; bands that `reading` names, float32, shape ``(C, H, W)``.

    Raises:
        UserError: If there is no such image, it cannot be decoded, it has more than `max_pixels` pixels, or its samples are none that
            the rule holds for.
    """
    with opened(path, max_pixels, reading) as image:
        info = image.info
        check_at_once(path, info, info.extent, max_pixels)
        return torch.from_numpy(read_pixels(image.read(Region.whole(info.extent)), info, reading))


def read_levels(path: Path, size: Extent) -> tuple[Extent, ...]:
    """Return the rows and columns of each level of an image, the finest first, from its header.

    Args:
        path: The image file, or a page of it.
        size: Rows and columns that the image must have; of another one no level is known but these.

    Raises:
        UserError: If there is no such image, or its header cannot be read.
    """
    with open_image_file(path) as image:
        return image.info.levels if image.info.extent == size else (size,)


def read_window(
    path: Path,
    max_pixels: int,
    size: Extent,
    region: Region,
    reading: Reading = AS_THEY_ARE,
    level: int = 0,
) -> Tensor | None:
    """Return a window of an image, or of a smaller level of it.

    Args:
        path: The image file, or a page of it.
        max_pixels: Larger windows are refused.
        size: Rows and columns that the image must have.
        region: The window, within the image, or within the level in its pixels.
        reading: How samples become pixels.
        level: Of those that `read_levels` gives.

    Returns:
        Shape ``(C, *region.size)``: the pixels that `read_image` gives; None if the file has to be decoded as a
        whole, or its image is not of that size.

    Raises:
        UserError: As `read_image`, of the window.
    """
    with open_image_file(path) as image:
        info = image.info
        if level == 0 and (info.extent != size or info.block == info.extent):
            return None
        for extent in (info.block, region.size):
            if extent is not None:
                check_at_once(path, info, extent, max_pixels)
        check_reading(path, info, reading, split_page(path)[1])
        return torch.from_numpy(read_pixels(image.read(region, level), info, reading))


def blank_pixels(
    path: Path, max_pixels: int, reading: Reading, region: Region | None = None
) -> Tensor | None:
    """Return where in a region no band that is read holds anything, a part at a time; None stands for the whole image.

    Returns:
        bool, shape ``region.size``; None where the header says that every sample holds something, and of RGB of 8 bits.

    Raises:
        UserError: As `read_image`, but for the size of images of which regions can be read.
    """
    if reading.bands is None:
        return None
    with opened(path, max_pixels, reading) as image:
        info = image.info
        is_whole = info.nodata is None and "alpha" not in info.roles and np.dtype(info.dtype).kind != "f"
        if is_whole:
            return None
        whole = Region.whole(info.extent) if region is None else region
        blank = torch.empty(whole.size, dtype=torch.bool)
        for part in (one.intersection(whole) for one in parts_of(info, max_pixels)):
            if part.volume:
                check_at_once(path, info, part.size, max_pixels)
                samples = own_samples(image.read(part), info, reading.bands)
                blank[part.seen_from(whole.start).slices] = torch.from_numpy(np.isnan(samples).all(axis=0))
        return blank


@dataclass(frozen=True)
class Survey:
    """What an image file holds, once all of it was decoded.

    Attributes:
        info: What its header says.
        low: The smallest finite sample of the bands that are read, as the file has it; 0 where there is none.
        high: The largest.
    """

    info: ImageInfo
    low: float = 0.0
    high: float = 0.0


def survey(path: Path, max_pixels: int, reading: Reading) -> Survey:
    """Decode an image from end to end, a part at a time, and keep nothing of it.

    Raises:
        UserError: As `read_image`, but for the size of images of which regions can be read.
    """
    with opened(path, max_pixels, reading) as image:
        info, lows, highs = image.info, list[float](), list[float]()
        for region in parts_of(info, max_pixels):
            check_at_once(path, info, region.size, max_pixels)
            samples = image.read(region)
            samples = (
                shown_bands(samples, info)
                if reading.bands is None
                else own_samples(samples, info, reading.bands)
            )
            known = samples[np.isfinite(samples)]
            if known.size:
                lows.append(float(known.min()))
                highs.append(float(known.max()))
        return Survey(info, min(lows, default=0.0), max(highs, default=0.0))


def parts_of(info: ImageInfo, max_pixels: int) -> Iterator[Region]:
    """Yield regions that make up an image: some rows of its strips or tiles, or some tiles of a row of very many.

    Args:
        info: What its header says.
        max_pixels: Most pixels of a region; more only where as many are decoded together.

    Example:
        >>> info = ImageInfo(((10, 8),), "uint8", ("grey",), block=(4, 4))
        >>> [region.size for region in parts_of(info, 64)], len(list(parts_of(info, 16)))
        ([(8, 8), (2, 8)], 6)
    """
    most, (rows, columns) = min(PART_PIXELS, max_pixels), info.extent
    block = _COMMON_TILE if info.block is None else info.block
    high = max(1, most // (columns * block[0])) * block[0]
    if high * columns > most and info.block is None:
        high = max(1, min(high, most // columns))
    wide = columns if high * columns <= most else max(1, most // (high * block[1])) * block[1]
    wide = min(wide, most) if info.block is None else wide
    for top in range(0, rows, high):
        for left in range(0, columns, wide):
            yield Region((top, left), (min(high, rows - top), min(wide, columns - left)))


def unturned(image_CHW: Tensor, turn: int) -> Tensor:
    """Return an upright image as it lies in a file of an EXIF orientation; 0 leaves it as it is.

    Example:
        >>> unturned(torch.tensor([[[1, 2], [3, 4]]]), 6).tolist()
        [[[2, 4], [1, 3]]]
    """
    if turn in (6, 8):  # shown turned right, left
        return image_CHW.rot90(1 if turn == 6 else -1, dims=(1, 2)).contiguous()
    if turn in (5, 7):  # mirrored at a diagonal
        return (image_CHW if turn == 5 else image_CHW.rot90(2, dims=(1, 2))).transpose(1, 2).contiguous()
    return image_CHW


def rgb_pixels(image: Image.Image, samples: SampleRange | None) -> np.ndarray:
    """Return the pixels of one of Pillow's images in memory, RGB, uint8, shape ``(H, W, 3)``."""
    if is_deep(image):
        return np.repeat(eight_bits(np.asarray(image), samples)[:, :, None], 3, axis=2)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # resolves transparent palette entries
    return np.array(image.convert("RGB"))
