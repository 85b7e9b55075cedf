"""Image files of any mode and size as uint8 RGB tensors.

Pixels of other kinds are mapped by fixed rules, so that an image looks the same in every run:

====================  ==========================================================================
1, L, LA, P, RGB(A)   as they are; transparency is dropped, the colours beneath it are kept
CMYK, YCbCr           converted to RGB by Pillow
12, 16, 32 bits, F    by the range of the data set (`sample_range`)
====================  ==========================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ziggurat.data.extents import Extent, Region, volume
from ziggurat.data.readers.composite import check_reading, colours
from ziggurat.data.readers.composite import eight_bits as shown_bits
from ziggurat.data.readers.layout import AS_THEY_ARE, Layout, Reading, layout_of
from ziggurat.data.readers.opened import ImageInfo, ImageReader
from ziggurat.data.readers.opening import open_image, orientation, upright, upright_size
from ziggurat.data.readers.pages import split_page
from ziggurat.data.readers.raw_modes import take_lower_bytes
from ziggurat.data.readers.registry import naming, open_by_reader, reader_of
from ziggurat.data.readers.sample_range import SampleRange, check_range, eight_bits, is_deep
from ziggurat.errors import UserError


def image_size(path: Path, max_pixels: int) -> tuple[int, int]:
    """Return an image's rows and columns, upright, from its header.

    Raises:
        UserError: If there is no such image, it cannot be read, or it has more than `max_pixels` pixels.
    """
    reader = reader_for(path)
    if reader is not None:
        return _header_by(reader, path, max_pixels, None).extent
    with open_image(path, max_pixels) as image:
        return upright_size(image)


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


def read_header(path: Path, max_pixels: int, reading: Reading) -> Header:
    """Return what the header of an image says whose pixels will be read.

    Raises:
        UserError: As `image_size`, and if its samples lie as nobody here can read them, or have no range.
    """
    reader = reader_for(path)
    if reader is not None:
        return _header_by(reader, path, max_pixels, reading)
    with open_image(path, max_pixels) as image:
        checked_layout(path, image, reading)
        return Header(upright_size(image), orientation(image))


def inspect_image(path: Path, max_pixels: int, reading: Reading) -> tuple[int, int]:
    """Return the rows and columns of an image whose pixels will be read, from its header.

    Raises:
        UserError: As `image_size`, and if its samples have no range.
    """
    return read_header(path, max_pixels, reading).extent


def read_image(path: Path, max_pixels: int, reading: Reading = AS_THEY_ARE) -> Tensor:
    """Decode an image, upright.

    Args:
        path: The image file.
        max_pixels: Larger images are refused by their header, before they are decoded.
        reading: How samples become pixels; by default by natural ranges, and what a file has beside one picture is refused.

    Returns:
        RGB, uint8, shape ``(3, H, W)``.

    Raises:
        UserError: If there is no such image, it cannot be decoded, it has more than `max_pixels` pixels, its samples
            lie in the file as nobody here can read them, or they have no natural range and none is given.
    """
    return look(path, max_pixels, reading).pixels_CHW


@dataclass(frozen=True)
class Look:
    """A decoded image, and what its file holds.

    Attributes:
        pixels_CHW: RGB, uint8, shape ``(3, H, W)``.
        layout: How the samples lie in the file; None of an image that was read by a reader.
        samples: Those that the pixels are made of, in any shape.
        info: What a reader says of the image.
    """

    pixels_CHW: Tensor
    layout: Layout | None
    samples: np.ndarray
    info: ImageInfo | None = None

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest finite sample, as the file has them; 0 where there is none."""
        known = self.samples[np.isfinite(self.samples)]
        scale = 1.0 if self.layout is None else self.layout.scale
        return (float(known.min()) / scale, float(known.max()) / scale) if known.size else (0.0, 0.0)


def look(path: Path, max_pixels: int, reading: Reading) -> Look:
    """Decode an image, and say what its file holds; see `read_image`."""
    reader = reader_for(path)
    if reader is not None:
        return _look_by(reader, path, max_pixels, reading)
    with open_image(path, max_pixels) as image:
        layout = checked_layout(path, image, reading)
        values: np.ndarray
        if layout.is_deep and (layout.bands == 1 or reading.samples is not None):
            values = (
                _one_band(path, image, layout) if layout.bands == 1 else _all_bits(path, image, max_pixels)
            )
            pixels = eight_bits(values, _scaled(reading.samples, layout.scale), layout.top)
            if layout.nodata is not None:
                pixels[values == layout.nodata] = 0
            pixels = np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels
        else:
            values = pixels = rgb_pixels(upright(image), None)
    return Look(torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), layout, values)


def reader_for(path: Path) -> ImageReader | None:
    """Return the reader that recognises an image, or the file of a page; None leaves it to Pillow.

    Raises:
        UserError: If there is no such file.
    """
    with naming(path):
        return reader_of(split_page(path)[0])


def check_at_once(path: Path, extent: Extent, max_pixels: int) -> None:
    """Refuse to decode more pixels at once than ``data.max_pixels``.

    Raises:
        UserError: If it is more.
    """
    if volume(extent) > max_pixels:
        sides = " x ".join(map(str, reversed(extent)))
        raise UserError(
            f"the image {path} has {volume(extent)} pixels ({sides}), more than data.max_pixels={max_pixels}: raise "
            "data.max_pixels if it is meant to be that large"
        )


def _header_by(reader: ImageReader, path: Path, max_pixels: int, reading: Reading | None) -> Header:
    with open_by_reader(path, reader) as image:
        info = image.info
        if info.block is not None:
            check_at_once(path, info.block, max_pixels)
        if reading is not None:
            check_reading(path, info, reading, split_page(path)[1])
        rows, columns = info.extent
        return Header((rows, columns), info.orientation)


def _look_by(reader: ImageReader, path: Path, max_pixels: int, reading: Reading) -> Look:
    with open_by_reader(path, reader) as image:
        info = image.info
        check_at_once(path, info.extent, max_pixels)
        check_reading(path, info, reading, split_page(path)[1])
        samples = image.read(Region.whole(info.extent))
        pixels = shown_bits(samples, info, reading)
        return Look(torch.from_numpy(pixels), None, samples[list(colours(info))], info)


def checked_layout(path: Path, image: Image.Image, reading: Reading) -> Layout:
    """Return the layout of an opened image whose pixels can be read.

    Raises:
        UserError: If they cannot be, or their samples have no range.
    """
    layout = layout_of(path, image)
    refusal = layout.refusal(reading)
    if refusal:
        raise UserError(f"the image {path} cannot be read as it is: {refusal}")
    check_range(path, image, reading.samples)
    return layout


def _one_band(path: Path, image: Image.Image, layout: Layout) -> np.ndarray:
    """Return the samples of one band of more than 8 bits, upright, shape ``(H, W)``."""
    values = np.asarray(upright(image))
    if layout.type == "uint32" and (values < 0).any():  # Pillow's are signed
        raise UserError(
            f"the image {path} has samples of more than 2147483647, which cannot be read: save floating-point ones"
        )
    return values


def _all_bits(path: Path, image: Image.Image, max_pixels: int) -> np.ndarray:
    """Return the samples of three bands of 16 bits, upright, uint16, shape ``(H, W, 3)``."""
    upper = np.asarray(upright(image))[:, :, :3]
    with open_image(path, max_pixels) as again:
        take_lower_bytes(again)
        lower = np.asarray(upright(again))[:, :, :3]
    samples: np.ndarray = upper.astype(np.uint16) << 8 | lower
    return samples


def _scaled(samples: SampleRange | None, scale: float) -> SampleRange | None:
    return None if samples is None else SampleRange(samples.low * scale, samples.high * scale)


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
    """Return the pixels of a decoded image, RGB, uint8, shape ``(H, W, 3)``."""
    if is_deep(image):
        return np.repeat(eight_bits(np.asarray(image), samples)[:, :, None], 3, axis=2)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # resolves transparent palette entries
    return np.array(image.convert("RGB"))
