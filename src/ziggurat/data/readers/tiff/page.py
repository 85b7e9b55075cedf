"""How the samples of one picture of a TIFF lie in the file: what its tags say, checked before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ziggurat.data.extents import Extent
from ziggurat.data.readers.tiff.directories import DamagedTiffError, cannot_be_read

Kind = Literal["u", "i", "f", "c"]

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
NONE, CCITT, LZW, OLD_JPEG, JPEG, PACKBITS = 1, (2, 3, 4), 5, 6, 7, 32773
DEFLATE, LZMA, ZSTD, WEBP, LERC, PNG = (8, 32946), 34925, (34926, 50000), (34927, 50001), 34887, 34933
JPEG_2000, JPEG_XL = (33003, 33004, 33005, 34712), (50002, 52546)

_KINDS: dict[int, Kind] = {1: "u", 2: "i", 3: "f", 4: "u", 5: "c", 6: "c"}
_BITS: dict[Kind, tuple[int, ...]] = {
    "u": (*range(1, 17), 32, 64),
    "i": (8, 16, 32, 64),
    "f": (16, 32, 64),
    "c": (64, 128),
}
_WORDS = {"u": "", "i": " (signed)", "f": " (floating-point)", "c": " (complex)"}
SPARE_BYTES = 1 << 26  # a tile or padded row may have more pixels than a small image: 4096 x 4096 of them


@dataclass(frozen=True)
class Page:
    """One picture, as its tags say.

    Attributes:
        extent: Rows and columns, as they lie in the file.
        samples: Of a pixel.
        bits: Of a sample.
        kind: Of the samples.
        order: Of the bytes of a number, ``<`` or ``>``.
        photometric: What the samples mean.
        extra: What those beside colour mean.
        is_planar: Whether each band lies by itself.
        compression: Its number.
        predictor: 1 none, 2 differences, 3 those of floating-point numbers.
        is_reversed: Whether the bits of each byte are.
        segment: Rows and columns of a strip or tile.
        is_tiled: Whether the last ones are as large as the first.
        offsets: Of each strip or tile, int64.
        sizes: Bytes of each, int64; 0 of those that hold nothing.
        orientation: 1 to 8.
        tables: Of JPEG, before each strip or tile.
        palette: Red, green and blue of each sample, uint16, shape ``(3, colours)``.
        fax: Options of CCITT's compression.
        is_jfif: Whether strips are JPEG files.
        place: Where its directory lies.
    """

    extent: Extent
    samples: int
    bits: int
    kind: Kind
    order: Literal["<", ">"]
    photometric: int
    extra: tuple[int, ...]
    is_planar: bool
    compression: int
    predictor: int
    is_reversed: bool
    segment: Extent
    is_tiled: bool
    offsets: np.ndarray
    sizes: np.ndarray
    orientation: int
    tables: bytes | None
    palette: np.ndarray | None
    fax: int
    is_jfif: bool
    place: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's type of the samples in memory."""
        room = max(8, self.bits)
        return np.dtype(f"{self.kind}{(room if room in (8, 32, 64, 128) else 16) // 8}")

    @property
    def grid(self) -> Extent:
        """Strips or tiles that follow each other down and across."""
        rows, columns = (-(-size // part) for size, part in zip(self.extent, self.segment, strict=True))
        return rows, columns

    @property
    def bands_at_once(self) -> int:
        """Samples of a pixel that lie beside each other."""
        return 1 if self.is_planar else self.samples

    def row_bytes(self, columns: int) -> int:
        """Return the bytes of a row of samples in a strip or tile."""
        return -(-columns * self.bands_at_once * self.bits // 8)


def page_of(found: Any) -> Page:
    """Return what the tags of a page say.

    Args:
        found: tifffile's page.

    Raises:
        DamagedTiffError: If it cannot be.
    """
    bits, formats = found.bitspersample, found.sampleformat
    samples = int(found.samplesperpixel)
    if not isinstance(bits, int) or isinstance(formats, tuple):
        shown = ", ".join(map(str, bits)) if not isinstance(bits, int) else str(bits)
        raise cannot_be_read(f"it has {samples} bands of {shown} bits that differ from band to band")
    kind = _KINDS.get(int(formats))
    if kind is None or bits not in _BITS[kind]:
        words = _WORDS.get(kind or "", " (of an unknown kind)")
        raise cannot_be_read(f"it has {samples} bands of {bits} bits{words}")
    extent = int(found.imagelength), int(found.imagewidth)
    segment = (
        (int(found.tilelength), int(found.tilewidth))
        if found.is_tiled
        else (int(found.rowsperstrip or found.imagelength), extent[1])
    )
    if found.imagedepth != 1 or (found.is_tiled and found.tiledepth != 1):
        raise cannot_be_read(f"it has {found.imagedepth} planes of depth")
    page = Page(
        extent, samples, bits, kind, found.parent.byteorder, int(found.photometric),
        tuple(map(int, found.extrasamples)), int(found.planarconfig) == 2 and samples > 1, int(found.compression),
        int(found.predictor), int(found.fillorder) == 2, segment, bool(found.is_tiled),
        np.array(found.dataoffsets, dtype=np.int64), np.array(found.databytecounts, dtype=np.int64),
        _number(found, 274), found.jpegtables, _palette(found), _number(found, 292, 0), int(found.compression) == JPEG and bool(found.is_jfif), int(found.offset),
    )  # fmt: skip
    _check(page)
    return page


def _number(found: Any, tag: int, default: int = 1) -> int:
    value = found.tags.valueof(tag, default)
    return int(value) if isinstance(value, int) else default


def _palette(found: Any) -> np.ndarray | None:
    if int(found.photometric) != PALETTE:
        return None
    if found.colormap is None:
        raise DamagedTiffError("it has a palette without colours")
    return np.asarray(found.colormap, dtype=np.uint16).reshape(3, -1)


def _check(page: Page) -> None:
    """Refuse what cannot be, before as much memory is taken as it would need.

    Raises:
        DamagedTiffError: If it cannot be.
    """
    if min(page.extent) < 1 or min(page.segment) < 1 or page.samples < 1:
        raise DamagedTiffError(
            f"it is said to have {page.extent[1]} x {page.extent[0]} pixels of {page.samples} samples"
        )
    rows, columns = page.grid
    count = rows * columns * (page.samples if page.is_planar else 1)
    if not len(page.offsets) == len(page.sizes) == count:
        raise DamagedTiffError(
            f"it has {count} strips or tiles, and places of {len(page.offsets)} and sizes of {len(page.sizes)}"
        )
    room = page.segment[0] * page.row_bytes(page.segment[1])
    pixels = page.extent[0] * page.row_bytes(page.extent[1])
    if room > 4 * pixels + SPARE_BYTES:
        raise DamagedTiffError(
            f"a strip or tile is said to have {room} bytes, the image has {page.extent[1]} x {page.extent[0]} pixels"
        )
    if page.predictor not in (1, 2, 3) or (page.predictor == 2 and page.bits not in (8, 16, 32, 64)):
        raise cannot_be_read(f"it has the predictor {page.predictor} for samples of {page.bits} bits")
    if page.predictor == 3 and page.kind != "f":
        raise DamagedTiffError(
            "its samples are said to be differences of floating-point numbers, and are none"
        )
    if page.palette is not None and (
        page.kind != "u" or page.bits > 16 or page.palette.shape[1] < 1 << page.bits
    ):
        raise DamagedTiffError(
            f"it has a palette of {page.palette.shape[1]} colours for samples of {page.bits} bits"
        )
