"""Images in memory, as a program has them: tensors, arrays and Pillow's, as uint8 RGB tensors.

Samples in memory become 8 bits by the rules for files (`data.readers.sample_range`), and floating-point ones without a
range lie from 0 to 1, as torchvision and scikit-image have them::

    uint8                        as they are
    others, with ``data.range``  between its two numbers
    uint16                       divided by 257
    floating point               multiplied by 255
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ziggurat.data.readers.images import rgb_pixels
from ziggurat.data.readers.layout import Reading
from ziggurat.data.readers.naming import naming
from ziggurat.data.readers.opening import turned
from ziggurat.data.readers.sample_range import SampleRange, check_range
from ziggurat.errors import UserError

KINDS = (
    "an image must be a file, one of Pillow's, a tensor of shape (3, H, W), (1, H, W) or (H, W), or an array of shape "
    "(H, W, 3), (H, W, 1) or (H, W)"
)


def pixels_of(image: Any, name: str, reading: Reading) -> Tensor:
    """Return an image in memory: RGB, uint8, shape ``(3, H, W)``, or the bands that are read, float32, shape ``(C, H, W)``.

    Args:
        image: A tensor, an array, or one of Pillow's.
        name: In messages.
        reading: What is black and white, where ``data.range`` says it, or which bands are read.

    Raises:
        UserError: If it is no image, its samples have no range, or it has other bands.
    """
    if reading.bands is not None:
        return _own_samples(image, name, reading.bands, reading.layout[1])
    samples = reading.samples
    if isinstance(image, Image.Image):
        image = _of_pillow(image, name, samples)
    if isinstance(image, np.ndarray):
        values = image.transpose(2, 0, 1) if image.ndim == 3 else image
    elif isinstance(image, Tensor):
        image = image.detach().cpu()
        values = (image.double() if image.is_floating_point() else image).numpy()  # it has no bfloat16
    else:
        raise UserError(f"{KINDS}: {name} is of type {type(image).__name__}")
    values = values[None] if values.ndim == 2 else values  # grey
    if values.ndim != 3 or values.shape[0] not in (1, 3) or not values.size:
        raise UserError(
            f"{KINDS}: {name} has shape {tuple(image.shape)}; leave bands beside red, green and blue away, and give several "
            "images as a list"
        )
    pixels = torch.from_numpy(np.array(_eight_bits(values, name, samples), order="C"))
    return pixels.expand(3, -1, -1).contiguous()


def _own_samples(image: Any, name: str, bands: tuple[int, ...], dtype: str) -> Tensor:
    """Return an image that holds the bands that the network sees, in their order, as float32, NaN where it is not finite."""
    if isinstance(image, Tensor):
        values = image.detach().cpu().float()
    else:
        array = np.asarray(turned(image) if isinstance(image, Image.Image) else image)
        if array.dtype.kind not in "buif":
            raise UserError(f"{KINDS}: {name} is of type {type(image).__name__}")
        values = torch.from_numpy(array.astype(np.float32))
        values = values.permute(2, 0, 1) if values.dim() == 3 else values
    values = values[None] if values.dim() == 2 else values
    if values.dim() != 3 or not values.numel() or (bands and len(values) != len(bands)):
        raise UserError(
            f"the network sees {len(bands)} bands: {name} must be a tensor of shape ({len(bands)}, H, W) or an array of shape (H, W, "
            f"{len(bands)}), got {tuple(np.shape(image))}"
        )
    given = str(getattr(image, "dtype", "")).removeprefix("torch.")
    if dtype and "int" in given and given != dtype:
        raise UserError(
            f"the network is trained on samples of the type {dtype}: {name} has {given}; give it in that type, or as floating point of the "
            "same values"
        )
    return torch.where(values.isfinite(), values, torch.nan).contiguous()


def _eight_bits(values: np.ndarray, name: str, samples: SampleRange | None) -> np.ndarray:
    """Return the samples of an array or tensor as uint8."""
    if values.dtype == np.uint8:
        return values
    if samples is not None and values.dtype.kind in "iuf":
        return samples.eight_bits(values)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:  # in any order of bytes
        return np.rint(values.astype(np.float32) / 257).astype(np.uint8)
    if values.dtype.kind != "f":
        raise UserError(
            f"samples must be uint8, uint16 or floating point, or data.range must say which are black and white: {name} has "
            f"{values.dtype}"
        )
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise UserError(
            f"floating-point samples must lie from 0 to 1: {name} has {low:g} to {high:g}; divide them, give uint8, or set "
            "data.range"
        )
    return SampleRange(0, 1).eight_bits(values)


def _of_pillow(image: Image.Image, name: str, samples: SampleRange | None) -> np.ndarray:
    """Return one of Pillow's images as `read_image` returns its file: upright, RGB, uint8, shape ``(H, W, 3)``."""
    file = Path(getattr(image, "filename", "") or name)
    check_range(file, image, samples)
    with naming(file):
        image.load()  # it may be a file that is not decoded yet
    return rgb_pixels(turned(image), samples)
