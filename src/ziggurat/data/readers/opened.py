"""What an opened image says of itself, and how its samples are read: the protocol of every reader.

Samples are those of the file, in their own type and number of bands; what becomes of them (which bands, in what range) is
a rule of the data set, and no reader's. Only what is a matter of the file's writing is undone by the reader: the palette,
CMYK and YCbCr become red, green and blue, "zero is white" is turned round, an image that EXIF says lies on its side is
upright.

Shapes: ``C`` bands, then the image's dims (rows and columns).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar, runtime_checkable

import numpy as np

from ziggurat.data.extents import Extent, Region

Place = TypeVar("Place", float, np.ndarray)
Role = Literal["grey", "red", "green", "blue", "alpha", "other"]


@dataclass(frozen=True)
class Georeference:
    """Where the pixels of an image lie on the ground.

    Attributes:
        transform: Six numbers ``(a, b, c, d, e, f)``, as rasterio's `Affine` has them: the corner of column `x` and row `y` lies
            at ``(a * x + b * y + c, d * x + e * y + f)``; the centre of the first pixel is x = y = 0.5.
        crs: The coordinate reference system, as WKT; empty where the file does not say.
    """

    transform: tuple[float, float, float, float, float, float]
    crs: str = ""

    def ground(self, x: Place, y: Place) -> tuple[Place, Place]:
        """Return where a corner of pixels lies, or an array of them, in units of the CRS.

        Example:
            >>> Georeference((0.5, 0, 300000, 0, -0.5, 5000000)).ground(2, 4)
            (300001.0, 4999998.0)
        """
        a, b, c, d, e, f = self.transform
        return a * x + b * y + c, d * x + e * y + f


@dataclass(frozen=True)
class ImageInfo:
    """What the header of an image says.

    Attributes:
        levels: Rows and columns of each level of resolution, upright, the finest first.
        dtype: NumPy's name of the samples' type, as they are read, in the machine's order of bytes.
        roles: What each band is.
        bits: Significant bits of a sample: 12 of a ``uint16`` in some files.
        nodata: The value of samples that hold nothing; None where the file does not say.
        georeference: Where the pixels lie on the ground; None of other images.
        microns_per_pixel: Rows' and columns' distance, of microscopes and slides; None where the file does not say.
        pages: Pictures in the file, of which this is one.
        names: What the file calls the bands; empty where it does not.
        block: Rows and columns that are decoded together at least, of full resolution: a tile, a few rows, or the whole image
            where nothing less can be; None where any region is read by itself.
        top: The largest natural sample, where it is not that of `bits`.
        orientation: The EXIF orientation that was undone: 1 where the image is upright in its file, from 5 on rows and columns
            were exchanged.
    """

    levels: tuple[Extent, ...]
    dtype: str
    roles: tuple[Role, ...]
    bits: int = 8
    nodata: float | None = None
    georeference: Georeference | None = None
    microns_per_pixel: tuple[float, ...] | None = None
    pages: int = 1
    names: tuple[str, ...] = ()
    block: Extent | None = None
    top: float | None = None
    orientation: int = 1

    @property
    def extent(self) -> Extent:
        """Rows and columns at full resolution."""
        return self.levels[0]

    @property
    def bands(self) -> int:
        """Bands, transparency among them."""
        return len(self.roles)

    def scale(self, level: int) -> tuple[float, ...]:
        """Return how many pixels of full resolution one of a level spans, dim by dim.

        Example:
            >>> ImageInfo(((100, 200), (50, 100)), "uint8", ("grey",)).scale(1)
            (2.0, 2.0)
        """
        return tuple(full / size for full, size in zip(self.extent, self.levels[level], strict=True))


class OpenedImage(Protocol):
    """An opened image; several threads may read at once, and a forked process opens its own."""

    @property
    def info(self) -> ImageInfo:
        """What the header says."""
        ...

    def read(self, region: Region, level: int = 0) -> np.ndarray:
        """Return the samples of a region of a level, within it, shape ``(C, *region.size)``.

        Memory is that of the region and of those strips, tiles or chunks of the file that it touches, a few at a time.

        Raises:
            UserError: If the file is damaged, or what lies there cannot be decoded.
        """
        ...


@runtime_checkable
class HasPalette(Protocol):
    """An opened image that may have a palette, whose numbers masks are made of."""

    def indices(self, region: Region) -> np.ndarray | None:
        """Return the numbers of the palette's colours in a region, shape ``region.size``; None without a palette."""
        ...


class ImageReader(Protocol):
    """Opens image files of some kinds.

    Attributes:
        suffixes: Of its files, in small letters, with the dot; files (or folders, of zarr) with them are images in folders and globs.
    """

    suffixes: Sequence[str]

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether it reads a file, by its name and its first 64 bytes (none of a folder); decodes nothing."""
        ...

    def open(self, path: Path, page: int | None) -> AbstractContextManager[OpenedImage]:
        """Open an image for the body of a ``with``; a page counts from 0, None is the only one, or the first.

        Raises:
            UserError: If the header is damaged, or names what cannot be read, with the reason.
        """
        ...
