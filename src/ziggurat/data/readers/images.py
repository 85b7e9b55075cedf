"""Image files of any mode and size as uint8 RGB tensors.

Pixels of other kinds are mapped by fixed rules, so that an image looks the same in every run:

====================  ==========================================================================
1, L, LA, P, RGB(A)   as they are; transparency is dropped, the colours beneath it are kept
CMYK, YCbCr, LAB      converted to RGB by Pillow
16 and 32 bits, F     by the range of the data set (`sample_range`)
====================  ==========================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ziggurat.data.readers.opening import open_image, orientation, upright, upright_size
from ziggurat.data.readers.registry import checked_size, naming, reader_of
from ziggurat.data.readers.sample_range import SampleRange, check_range, eight_bits, is_deep


def image_size(path: Path, max_pixels: int) -> tuple[int, int]:
    """Return an image's rows and columns, upright, from its header.

    Raises:
        UserError: If there is no such image, it cannot be read, or it has more than `max_pixels` pixels.
    """
    reader = reader_of(path)
    if reader is not None:
        return checked_size(reader, path, max_pixels)
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


def read_header(path: Path, max_pixels: int, samples: SampleRange | None) -> Header:
    """Return what the header of an image says whose pixels will be read.

    Raises:
        UserError: As `image_size`, and if its samples have no range.
    """
    if reader_of(path) is not None:
        return Header(image_size(path, max_pixels))
    with open_image(path, max_pixels) as image:
        check_range(path, image, samples)
        return Header(upright_size(image), orientation(image))


def inspect_image(path: Path, max_pixels: int, samples: SampleRange | None) -> tuple[int, int]:
    """Return the rows and columns of an image whose pixels will be read, from its header.

    Raises:
        UserError: As `image_size`, and if its samples have no range.
    """
    return read_header(path, max_pixels, samples).extent


def read_image(path: Path, max_pixels: int, samples: SampleRange | None = None) -> Tensor:
    """Decode an image, upright.

    Args:
        path: The image file.
        max_pixels: Larger images are refused by their header, before they are decoded.
        samples: The range of samples of more than 8 bits; None stands for the natural one, 0 to 65535 for 16 bits.

    Returns:
        RGB, uint8, shape ``(3, H, W)``.

    Raises:
        UserError: If there is no such image, it cannot be decoded, it has more than `max_pixels` pixels, or its samples
            have no natural range and none is given.
    """
    reader = reader_of(path)
    if reader is not None:
        checked_size(reader, path, max_pixels)
        with naming(path):
            return reader.read(path)
    with open_image(path, max_pixels) as image:
        check_range(path, image, samples)
        pixels = rgb_pixels(upright(image), samples)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


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
        return np.repeat(eight_bits(image, samples)[:, :, None], 3, axis=2)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # resolves transparent palette entries
    return np.array(image.convert("RGB"))
