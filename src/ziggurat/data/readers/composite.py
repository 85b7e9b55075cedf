"""From the samples of an opened image to what the network sees, by a rule of the data set: or why not.

Bands that ``data.bands`` names are taken in their own type, as float32 (whole numbers of up to 24 bits are exact), and
a sample that holds nothing is NaN: the file's value for that, what is transparent, and what is no finite number. Without
them an image is RGB of 8 bits.

The rule for RGB is the same for every reader and every file, and no image is stretched by its own content:

========================  ========================================================================================
up to 8 bits              as they are, the largest that they can hold is white
up to 16 bits, one band   the largest that they can hold is white, or ``data.range``
up to 16 bits, colour     the upper 8 bits, or ``data.range``
all others                ``data.range``; refused without it
bands beside colour       refused, or dropped where ``data.extra`` says so; transparency is dropped, the colours beneath
                          it are kept
pages                     refused, or the first where ``data.extra`` says so; a page that is named is taken
========================  ========================================================================================

Shapes: ``C`` bands, then rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ziggurat.data.readers.layout import Reading
from ziggurat.data.readers.opened import ImageInfo
from ziggurat.data.readers.sample_range import NO_RANGE
from ziggurat.errors import UserError

_KINDS = {"b": "uint", "u": "uint", "i": "int", "f": "float", "c": "complex"}
_WORDS = {"i": " (signed)", "f": " (floating-point)", "c": " (complex)"}
_CONVERT = "convert it, such as by 'gdal_translate -ot Byte -scale -b 1 -b 2 -b 3 IN OUT'"


def type_of(info: ImageInfo) -> str:
    """Return the type of the samples with their significant bits.

    Example:
        >>> type_of(ImageInfo(((8, 8),), "uint16", ("grey",), bits=12))
        'uint12'
    """
    return f"{_KINDS[np.dtype(info.dtype).kind]}{info.bits}"


def words_for(info: ImageInfo) -> str:
    """Return the bands of an image in words.

    Example:
        >>> words_for(ImageInfo(((8, 8),), "float32", ("grey", "other"), bits=32))
        '2 bands of 32 bits (floating-point)'
    """
    plural = "s" if info.bands > 1 else ""
    return f"{info.bands} band{plural} of {info.bits} bits{_WORDS.get(np.dtype(info.dtype).kind, '')}"


def is_deep(info: ImageInfo) -> bool:
    """Whether samples are other than whole numbers of 8 bits at most."""
    return np.dtype(info.dtype).kind not in "bu" or info.bits > 8


def has_natural_range(info: ImageInfo) -> bool:
    """Whether the type of the samples says what is white."""
    return np.dtype(info.dtype).kind in "bu" and info.bits <= 16


def colours(info: ImageInfo) -> tuple[int, ...]:
    """Return which bands are shown: red, green and blue, or the grey one, or the first of those that nothing is said of."""
    if {"red", "green", "blue"} <= set(info.roles):
        return tuple(info.roles.index(role) for role in ("red", "green", "blue"))
    return (info.roles.index("grey") if "grey" in info.roles else 0,)


def shown_bands(samples: np.ndarray, info: ImageInfo) -> np.ndarray:
    """Return the bands that are shown of all, shape ``(C, H, W)``; those in the file's order are no copy."""
    bands = colours(info)
    return samples[: len(bands)] if bands == tuple(range(len(bands))) else samples[list(bands)]


def check_reading(path: Path, info: ImageInfo, reading: Reading, page: int | None) -> None:
    """Refuse an image that the rule does not hold for.

    Raises:
        UserError: With the reason, and a remedy.
    """
    why = refusal(path, info, reading, page)
    if why:
        raise UserError(f"the image {path} cannot be read as it is: {why}")
    if reading.bands is None and reading.samples is None and not has_natural_range(info):
        kind = (
            "floating-point samples"
            if np.dtype(info.dtype).kind == "f"
            else "samples of 32 bits, or signed ones"
        )
        raise UserError(f"the image {path} has {kind}, {NO_RANGE}")


def refusal(path: Path, info: ImageInfo, reading: Reading, page: int | None) -> str:
    """Return why the rule does not hold for an image, whatever its range, with a remedy; empty if it does.

    Args:
        path: The file.
        info: What its header says.
        reading: The data set's.
        page: The page that was named; None if none was.
    """
    if np.dtype(info.dtype).kind == "c":
        return f"it has {words_for(info)}, which cannot be read; {_CONVERT}"
    if info.pages > 1 and page is None and reading.extra == "refuse":
        return (
            f"it has {info.pages} pages or frames, of which one can be read: name one, such as {path.name}#0, or take the "
            "first of every file: --set data.extra=drop"
        )
    if reading.bands is not None:
        count, dtype = reading.layout
        if (count and count != len(all_bands(info))) or (dtype and dtype != info.dtype):
            return (
                f"it has {words_for(info)}, and data.layout={f'{count or str()} {dtype}'.strip()} is what the network is trained on; convert it, "
                "or leave it out"
            )
        if max(reading.bands, default=0) <= info.bands:
            return ""
        return (
            f"it has {words_for(info)}, and data.bands={','.join(map(str, reading.bands))} names band {max(reading.bands)}: name bands "
            "that all images have, or leave this one out"
        )
    shown = len(colours(info))
    extra = info.bands - shown - info.roles.count("alpha")
    if extra and reading.extra == "refuse":
        return (
            f"it has {words_for(info)}, of which {extra} beside colour and transparency: a network that is trained with --set data.bands=all "
            f"sees all of them; --set data.extra=drop takes the first {shown} of every file"
        )
    return ""


def read_pixels(samples: np.ndarray, info: ImageInfo, reading: Reading) -> np.ndarray:
    """Return what the network sees of an image; `check_reading` has let it pass.

    Args:
        samples: All its bands, shape ``(C, H, W)``.
        info: What its header says.
        reading: The data set's.

    Returns:
        RGB, uint8, shape ``(3, H, W)``, or bands of their own type, float32, shape ``(C', H, W)``.
    """
    if reading.bands is None:
        return shown_pixels(samples, info, reading)
    return own_samples(samples, info, reading.bands)


def all_bands(info: ImageInfo) -> tuple[int, ...]:
    """Return the numbers, from 1, of all bands but transparency.

    Example:
        >>> all_bands(ImageInfo(((8, 8),), "uint16", ("red", "green", "blue", "alpha", "other")))
        (1, 2, 3, 5)
    """
    return tuple(number for number, role in enumerate(info.roles, start=1) if role != "alpha")


def own_samples(samples: np.ndarray, info: ImageInfo, bands: Sequence[int]) -> np.ndarray:
    """Return bands of an image in their own type, NaN where they hold nothing.

    Args:
        samples: All its bands, shape ``(C, H, W)``.
        info: What its header says.
        bands: The numbers, from 1, of those that are returned, in their order; empty are all but transparency.

    Returns:
        float32, shape ``(len(bands), H, W)``.

    Example:
        >>> info = ImageInfo(((1, 2),), "uint16", ("grey", "other"), bits=16, nodata=0)
        >>> own_samples(np.array([[[0, 7]], [[65535, 8]]], np.uint16), info, [2, 1])[:, 0].tolist()
        [[65535.0, 8.0], [nan, 7.0]]
    """
    places = [number - 1 for number in bands or all_bands(info)]
    chosen = samples[places]
    own = chosen.astype(np.float32)
    if info.nodata is not None and not np.isnan(info.nodata):
        own[chosen == info.nodata] = np.nan
    if chosen.dtype.kind == "f":
        own[~np.isfinite(own)] = np.nan
    for place, role in enumerate(info.roles):
        if role == "alpha" and place not in places:
            own[:, samples[place] == 0] = np.nan
    return own


def shown_pixels(samples: np.ndarray, info: ImageInfo, reading: Reading) -> np.ndarray:
    """Return the shown bands of an image by the rule; `check_reading` has let it pass.

    Args:
        samples: All its bands, shape ``(C, H, W)``.
        info: What its header says.
        reading: The data set's.

    Returns:
        RGB, uint8, shape ``(3, H, W)``.
    """
    shown = shown_bands(samples, info)
    top = info.top or (1 << info.bits) - 1
    if not is_deep(info):
        pixels = shown if top == 255 else _scaled(shown, top)
    else:
        if reading.samples is not None:
            pixels = reading.samples.eight_bits(shown)
        elif info.bands == 1 or info.top is not None:
            pixels = _scaled(shown, top)
        else:
            pixels = (shown >> (info.bits - 8)).astype(np.uint8)
        if info.nodata is not None:
            pixels[shown == info.nodata] = 0
    pixels = np.ascontiguousarray(
        np.repeat(pixels, 3, axis=0) if len(pixels) == 1 else pixels, dtype=np.uint8
    )
    # tensors are of memory that is written to, and not turned round, as one row may be
    return pixels if pixels.flags.writeable and min(pixels.strides) >= 0 else pixels.copy()


def _scaled(samples: np.ndarray, top: float) -> np.ndarray:
    pixels: np.ndarray = np.rint(samples.astype(np.float32) * 255 / top).astype(np.uint8)
    return pixels
