"""Image files of any mode and size as uint8 RGB tensors.

Pixels of other ranges are mapped by fixed rules, so that an image looks the same in every run:

====================  ==========================================================================
1, L, LA, P, RGB(A)   as they are; transparency is dropped, the colours beneath it are kept
CMYK, YCbCr, LAB      converted to RGB by Pillow
16 bits a channel     divided by 257 (65535 becomes 255)
32-bit integers       as 8 or 16 bits where the largest value fits, else stretched from min..max
floating point        times 255 if all lie in 0..1, as they are in 0..255, else stretched; NaN is 0
====================  ==========================================================================
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from ziggurat.errors import UserError

# Formats whose decoders only read pixels; Pillow would also start Ghostscript for EPS.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".ppm", ".pgm")

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def image_size(path: Path, max_pixels: int) -> tuple[int, int]:
    """Return an image's rows and columns, upright, from its header.

    Raises:
        UserError: If there is no such image, it cannot be read, or it has more than `max_pixels` pixels.
    """
    with open_image(path, max_pixels) as image:
        width, height = image.size
        # Pillow has applied the orientation of a TIFF to its size already.
        turned = image.format != "TIFF" and orientation(image) >= 5
    return (width, height) if turned else (height, width)


def read_image(path: Path, max_pixels: int) -> Tensor:
    """Decode an image, upright.

    Args:
        path: The image file.
        max_pixels: Larger images are refused by their header, before they are decoded.

    Returns:
        RGB, uint8, shape ``(3, H, W)``.

    Raises:
        UserError: If there is no such image, it cannot be decoded, or it has more than `max_pixels` pixels.
    """
    with open_image(path, max_pixels) as image:
        pixels = _rgb(upright(image))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


@contextmanager
def open_image(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image for the body, which may read and decode it; whatever a decoder raises names the file.

    Raises:
        UserError: If there is no such image, the body cannot read it, or it has more than `max_pixels` pixels.
    """
    own_bound, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # `max_pixels` takes its place
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; broken pixels raise
            with Image.open(path, formats=FORMATS) as image:
                _check_pixels(path, image, max_pixels)
                yield image
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no image {path}") from None
    except Exception as error:  # decoders raise almost anything for broken files
        raise UserError(f"cannot decode the image {path}: {_reason(error)}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = own_bound


def _check_pixels(path: Path, image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise UserError(
            f"the image {path} has {width * height} pixels ({width} x {height}), more than data.max_pixels="
            f"{max_pixels}: raise data.max_pixels if it is meant to be that large"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is empty or of no known format (PNG, JPEG, TIFF, BMP, WebP, GIF, JPEG 2000, PPM)"
    return f"{type(error).__name__}: {error}"


def upright(image: Image.Image) -> Image.Image:
    """Decode an image and turn it as its EXIF orientation says."""
    image.load()
    turn = _UPRIGHT.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where there is none."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - broken metadata is not a broken image
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _rgb(image: Image.Image) -> np.ndarray:
    """Return uint8 RGB, shape ``(H, W, 3)``."""
    if image.mode.startswith(("I", "F")):
        grey = _eight_bits(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # resolves transparent palette entries
    return np.array(image.convert("RGB"))


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Map one channel of 16-bit, 32-bit or floating-point values to uint8, shape unchanged."""
    if values.dtype.itemsize == 2:
        return np.rint(values.astype(np.float32) / 257).astype(np.uint8)
    is_float = values.dtype.kind == "f"
    values = np.nan_to_num(values.astype(np.float64))
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > (255 if is_float else 65535):
        values = (values - low) / max(high - low, 1e-300) * 255
    elif is_float and high <= 1:
        values = values * 255
    elif high > 255:
        values = values / 257
    return np.rint(values).astype(np.uint8)
