"""How the samples of an image lie in its file, and whether they can be read as they are: what cannot is refused with its reason.

What is read, each compared with a second reader in ``tests/data/readers/test_layouts.py``:

===============  ============================================================================================================
PNG              1 to 16 bits, grey, RGB, palette, with alpha or without
JPEG             8 bits: grey, YCbCr, RGB, CMYK, YCCK
TIFF             one band: 1, 2, 4, 8, 12, 16 bits, signed 16 and 32, unsigned 32, float 32; RGB of 8 and 16 bits, in planes of 16 where
                 they are compressed; with alpha; palette of 1 to 8 bits; CMYK; YCbCr
JPEG 2000, BMP,  as Pillow reads them
GIF, WebP, PPM
===============  ============================================================================================================

Bands beside colour and transparency, and pages or frames beside the first, are refused, or dropped where ``data.extra`` says so.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from ziggurat.config import DataConfig
from ziggurat.data.readers.sample_range import SampleRange, read_range
from ziggurat.data.readers.tiff_tags import (
    BITS,
    COMPRESSION,
    EXTRA_SAMPLES,
    PHOTOMETRIC,
    PLANAR,
    SAMPLE_FORMAT,
    SAMPLES,
    TiffTags,
    read_tags,
)

Kind = Literal["unsigned", "signed", "floating-point", "complex"]
KIND_OF_FORMAT: dict[int, Kind] = {
    1: "unsigned",
    2: "signed",
    3: "floating-point",
    5: "complex",
    6: "complex",
}
COLORS_OF_PHOTOMETRIC = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}  # of TIFF: grey, RGB, palette, CMYK, YCbCr
WHITE_IS_ZERO, RGB = 0, 2
COLORS_OF_PNG = {0: (1, False), 2: (3, False), 3: (1, False), 4: (1, True), 6: (3, True)}

_CONVERT = "convert it, such as by 'gdal_translate -ot Byte -scale -b 1 -b 2 -b 3 IN OUT'"


@dataclass(frozen=True)
class Reading:
    """How image files are read: the same for all images of a data set.

    Attributes:
        samples: The range of samples of more than 8 bits; None stands for the natural one.
        extra: What becomes of bands beside colour and transparency, and of pages and frames beside the first.
    """

    samples: SampleRange | None = None
    extra: Literal["refuse", "drop"] = "refuse"

    @classmethod
    def of(cls, config: DataConfig) -> Reading:
        """Return what a config says.

        Raises:
            UserError: If ``data.range`` is none.
        """
        return cls(read_range(config.range), config.extra)


AS_THEY_ARE = Reading()


@dataclass(frozen=True)
class Layout:
    """How the samples of an image lie in its file.

    Attributes:
        bits: Of a sample; of each band one where they differ.
        kind: Of the samples.
        bands: All of them.
        colors: Bands of colour: 1, 3 or 4 (CMYK).
        has_alpha: Whether one more is transparency.
        pages: Pages or frames of the file.
        is_planar: Whether each band lies by itself.
        is_compressed: Whether they are.
        is_inverted: Whether zero is white.
        fault: Why the samples cannot be read, whatever the settings are; empty if they can.
        nodata: The value of pixels that hold nothing.
        is_whole: Whether all bits of several deep bands can be read.
        top: The largest natural sample, as it is read.
        scale: What a sample of the file is multiplied by where it is read.
    """

    bits: int | tuple[int, ...] = 8
    kind: Kind = "unsigned"
    bands: int = 3
    colors: int = 3
    has_alpha: bool = False
    pages: int = 1
    is_planar: bool = False
    is_compressed: bool = True
    is_inverted: bool = False
    fault: str = ""
    nodata: float | None = None
    is_whole: bool = False
    top: int = 65535
    scale: float = 1.0

    @property
    def type(self) -> str:
        """The type of the samples, such as ``uint16``."""
        bits = self.bits if isinstance(self.bits, int) else "+".join(map(str, self.bits))
        return f"{ {'unsigned': 'uint', 'signed': 'int', 'floating-point': 'float', 'complex': 'complex'}[self.kind] }{bits}"

    @property
    def num_extra(self) -> int:
        """Bands beside colour and transparency."""
        return self.bands - self.colors - self.has_alpha

    @property
    def is_deep(self) -> bool:
        """Whether samples have more than 8 bits."""
        return self.bits > 8 if isinstance(self.bits, int) else max(self.bits) > 8

    @property
    def words(self) -> str:
        """The layout in words."""
        bands = f"{self.bands} band{'s' if self.bands > 1 else ''}"
        bits = self.bits if isinstance(self.bits, int) else ", ".join(map(str, self.bits))
        kind = "" if self.kind == "unsigned" else f" ({self.kind})"
        planes = ", each band in a plane" if self.is_planar and self.bands > 1 else ""
        return f"{bands} of {bits} bits{kind}{planes}"

    def refusal(self, reading: Reading) -> str:
        """Return why the image cannot be read so, with a remedy; empty if it can be."""
        if self.fault:
            return f"it has {self.words}, {self.fault}; {_CONVERT}"
        if self.pages > 1 and reading.extra == "refuse":
            return (
                f"it has {self.pages} pages or frames, of which one can be read: save each in a file of its own, or take the "
                "first of every file: --set data.extra=drop"
            )
        if self.num_extra and reading.extra == "refuse":
            return (
                f"it has {self.words}, of which {self.num_extra} beside colour and transparency: leave the first "
                f"{self.colors} in the file, or take them of every file: --set data.extra=drop"
            )
        if self.is_deep and self.bands > 1 and reading.samples is not None and not self.is_whole:
            return (
                f"it has {self.words}, of which only the upper 8 bits can be read here, and data.range needs all of them; "
                "save PNG"
            )
        return ""


def layout_of(path: Path, image: Image.Image) -> Layout:
    """Return the layout of an opened image.

    Raises:
        Exception: Almost any, if the file is broken.
    """
    if image.format == "TIFF":
        return tiff_layout(read_tags(path))
    if image.format == "PNG":
        return replace(_png_layout(path), pages=_frames(image))
    if image.format == "JPEG2000":
        return _jpeg2000_layout(path)
    if image.format == "PPM":
        return _ppm_layout(image)
    bands = len(image.getbands())
    colors = {"CMYK": 4}.get(image.mode, 1 if image.mode in ("1", "L", "LA", "P", "PA") else 3)
    alpha = image.mode in ("LA", "PA", "RGBA")
    frames = _frames(image) if image.format in ("GIF", "WEBP") else 1  # a camera's JPEG may hold a preview
    return Layout(
        bits=1 if image.mode == "1" else 8, bands=bands, colors=colors, has_alpha=alpha, pages=frames
    )


def tiff_layout(tags: TiffTags) -> Layout:
    """Return the layout that the tags of a TIFF say."""
    bands, photometric = tags.value(SAMPLES, 1), tags.value(PHOTOMETRIC, 1)
    bits, formats = tags.values(BITS, (1,)), set(tags.values(SAMPLE_FORMAT, (1,)))
    extra = tags.values(EXTRA_SAMPLES, ())
    layout = Layout(
        bits=bits[0] if len(set(bits)) == 1 else bits,
        kind=KIND_OF_FORMAT.get(min(formats), "unsigned"),
        bands=bands,
        colors=min(COLORS_OF_PHOTOMETRIC.get(photometric, 1), bands),
        has_alpha=bool(extra) and extra[0] in (1, 2),
        pages=tags.pages,
        is_planar=tags.value(PLANAR, 1) == 2 and bands > 1,
        is_compressed=tags.value(COMPRESSION, 1) != 1,
        is_inverted=photometric == WHITE_IS_ZERO,
        nodata=tags.nodata,
        is_whole=set(bits) == {16}
        and photometric == RGB
        and tags.value(PLANAR, 1) == 1
        and extra[:1] != (1,),
        top=4095 if bits == (12,) else 65535,
    )
    fault = _tiff_fault(layout, photometric, len(formats))
    if layout.is_planar and bits[0] == 16 and bands > layout.colors and not extra:
        fault = fault or "of which nothing says what the last is for"
    if layout.type == "uint32" and tags.is_big_endian:
        fault = fault or "with the largest byte first, which cannot be read"
    return replace(layout, fault=fault)


def _tiff_fault(layout: Layout, photometric: int, num_formats: int) -> str:
    """Return why nobody here decodes such samples, or decodes them rightly."""
    bits, kind = layout.bits, layout.kind
    if photometric not in COLORS_OF_PHOTOMETRIC:
        return f"in a colour space that cannot be read (photometric interpretation {photometric})"
    if num_formats > 1 or not isinstance(bits, int):
        return "which differ from band to band"
    if layout.colors == 1 and layout.num_extra > 0 and not (bits == 8 and layout.bands == 2):
        return "which nothing says the colours of, and which cannot be read"
    if layout.colors == 1:
        known = {"unsigned": (1, 2, 4, 8, 12, 16, 32), "signed": (16, 32), "floating-point": (32,)}.get(
            kind, ()
        )
        if bits not in known:
            return "which cannot be read"
        if layout.is_inverted and bits > 8:
            return "in which zero is white, which cannot be read"
    elif kind != "unsigned" or bits not in (8, 16):
        return "which cannot be read"
    if layout.is_planar and bits != 8 and not layout.is_compressed:
        return "not compressed, which cannot be read"
    return ""


def _frames(image: Any) -> int:
    return int(getattr(image, "n_frames", 1))


def _png_layout(path: Path) -> Layout:
    with path.open("rb") as file:
        head = file.read(26)
    bits, color = head[24], head[25]
    colors, has_alpha = COLORS_OF_PNG[color]
    return Layout(
        bits=bits, bands=colors + has_alpha, colors=colors, has_alpha=has_alpha, is_whole=colors == 3
    )


def _jpeg2000_layout(path: Path) -> Layout:
    """Return the layout that the codestream's SIZ says."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    start = head.index(b"\xff\x4f\xff\x51") + 4
    (bands,) = struct.unpack(">H", head[start + 36 : start + 38])
    sizes = [head[start + 38 + 3 * band] for band in range(bands)]
    bits = tuple((size & 0x7F) + 1 for size in sizes)
    colors = 1 if bands < 3 else 3
    layout = Layout(
        bits=bits[0] if len(set(bits)) == 1 else bits,
        kind="signed" if any(size & 0x80 for size in sizes) else "unsigned",
        bands=bands,
        colors=colors,
        has_alpha=bands in (2, 4),
    )
    if colors == 1 and bits[0] > 8:  # Pillow fills 16 bits
        layout = replace(layout, scale=float(1 << (16 - bits[0]))) if bits[0] <= 16 else layout
    fault = (
        "which cannot be read"
        if max(bits) > 16 or layout.kind == "signed" or bands > 4 or len(set(bits)) > 1
        else ""
    )
    return replace(layout, fault=fault)


def _ppm_layout(image: Image.Image) -> Layout:
    bands = len(image.getbands())
    arguments = image.tile[0].args  # type: ignore[attr-defined] # of a file
    most = arguments[-1] if isinstance(arguments, tuple) and isinstance(arguments[-1], int) else 0
    if image.mode == "I" and most:  # Pillow fills 16 bits
        return Layout(bits=most.bit_length(), bands=1, colors=1, scale=65535 / most)
    bits = {"1": 1, "I": 16}.get(image.mode, max(8, most.bit_length()))
    scale = (
        255 / most if most and image.mode != "1" else 1.0
    )  # and 8 bits of fewer, or of more of several bands
    return Layout(bits=bits, bands=bands, colors=bands, scale=scale)
