"""What the samples of a TIFF mean, and undoing what is a matter of the file's writing.

That are palettes, CMYK, greys of which zero is white, and colours that are multiplied by their transparency.

Shapes: ``C`` bands, then rows and columns.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ziggurat.data.readers.opened import Role
from ziggurat.data.readers.tiff.directories import cannot_be_read
from ziggurat.data.readers.tiff.page import (
    BLACK_IS_ZERO,
    CMYK,
    JPEG,
    PALETTE,
    RGB,
    WHITE_IS_ZERO,
    YCBCR,
    Page,
)

_COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
_RGB: tuple[Role, ...] = ("red", "green", "blue")
_MULTIPLIED, _ALPHAS = 1, (1, 2)


def check_colours(page: Page) -> None:
    """Refuse samples that nobody here makes colours of.

    Raises:
        DamagedTiffError: With the reason.
    """
    if page.photometric not in _COLOURS:
        raise cannot_be_read(f"its samples are of the photometric interpretation {page.photometric}")
    if page.photometric == WHITE_IS_ZERO and page.kind != "u":
        raise cannot_be_read("in it zero is white, and its samples are signed or floating-point")
    if page.photometric == CMYK and (page.samples < 4 or page.kind != "u" or page.bits not in (8, 16)):
        raise cannot_be_read(f"it is said to be CMYK in {page.samples} bands of {page.bits} bits")
    if page.photometric == YCBCR and (page.samples != 3 or page.compression != JPEG or page.is_planar):
        raise cannot_be_read("its colours are YCbCr without the compression JPEG")
    if page.photometric == PALETTE and page.samples > 1:
        raise cannot_be_read(f"it has a palette and {page.samples} bands")


def roles_of(page: Page) -> tuple[Role, ...]:
    """Return what each band is, once the samples are those of `shown`."""
    colours = _COLOURS[page.photometric]
    if colours > page.samples:
        nothing_said: Role = "other"
        return (nothing_said,) * page.samples
    is_grey = page.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)
    names: tuple[Role, ...] = ("grey",) if is_grey else _RGB
    others = page.samples - colours
    extra = (*page.extra, *(0,) * others)[:others]
    more: list[Role] = ["alpha" if meaning in _ALPHAS else "other" for meaning in extra]
    return (*names, *more)


def depth_of(page: Page) -> tuple[str, int]:
    """Return the type of the samples that are shown, and their significant bits."""
    if page.photometric in (PALETTE, CMYK):
        return "uint8", 8
    return page.dtype.name, page.bits


def shown(samples: np.ndarray, page: Page) -> np.ndarray:
    """Return samples in the colours that they mean.

    Args:
        samples: As they lie in the file, shape ``(samples, H, W)``.
        page: Whose they are.

    Returns:
        Shape ``(C, H, W)``, bands as `roles_of` says.
    """
    if page.photometric == WHITE_IS_ZERO:
        top = samples.dtype.type((1 << page.bits) - 1)
        return np.concatenate([top - samples[:1], samples[1:]])
    if page.palette is not None:
        return (page.palette >> 8).astype(np.uint8)[:, samples[0]]
    if page.photometric == CMYK:
        return _of_cmyk(samples if page.bits == 8 else (samples >> 8).astype(np.uint8))
    if (
        page.photometric == RGB
        and page.extra[:1] == (_MULTIPLIED,)
        and page.samples == 4
        and page.kind == "u"
    ):
        return _divided(samples, (1 << page.bits) - 1)
    return samples


def _of_cmyk(samples: np.ndarray) -> np.ndarray:
    inks = Image.fromarray(np.ascontiguousarray(np.moveaxis(samples[:4], 0, -1)), "CMYK")
    colours = np.moveaxis(np.asarray(inks.convert("RGB")), -1, 0)
    return np.concatenate([colours, samples[4:]])


def _divided(samples: np.ndarray, top: int) -> np.ndarray:
    """Return colours that were multiplied by their transparency without it, rounded down; 0 where nothing is left of them."""
    alpha = samples[3:].astype(np.uint64)
    whole = np.minimum(samples[:3].astype(np.uint64) * np.uint64(top) // np.maximum(alpha, 1), top)
    colours = np.where(alpha == 0, 0, whole).astype(samples.dtype)
    return np.concatenate([colours, samples[3:]])
