"""Whole slides of microscopes (SVS, NDPI, MRXS ...), read by OpenSlide: levels, and microns a pixel.

OpenSlide counts places in pixels of full resolution, whatever the level, and interpolates between pixels where a level is not a whole number of times
smaller: so a region is read from a place a little before it, at which both grids meet, and cut. Where they meet nowhere near, pixels lie beside their
place by half a pixel of full resolution at most, as OpenSlide has them.

What lies outside of the scanned area is transparent, in the colour of the background that the slide names (white if it names none), as the makers
of OpenSlide advise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ziggurat.data.extents import Region
from ziggurat.data.readers.extras import import_extra
from ziggurat.data.readers.handles import Handles
from ziggurat.data.readers.opened import ImageInfo
from ziggurat.errors import UserError

_TIFF_SLIDES = (".svs", ".ndpi", ".scn", ".bif", ".svslide")  # which a reader of TIFFs can read, too
_CACHE_BYTES = 32 << 20  # of decoded tiles, of each handle
_LOOKED_BACK = 512  # pixels of a level before a region in which both grids may meet
MAX_TILE_PIXELS = 1 << 26
_MEET = 1 / 512  # pixels of a level: OpenSlide's drawing counts in 256ths


class SlideReader:
    """Opens whole slides."""

    suffixes: Sequence[str] = (*_TIFF_SLIDES, ".mrxs", ".vms", ".vmu")

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether a file is a slide by its suffix; those that are TIFFs are left to others where OpenSlide is not installed."""
        suffix = path.suffix.lower()
        if suffix not in self.suffixes or path.is_dir():
            return False
        return suffix not in _TIFF_SLIDES or find_spec("openslide") is not None

    @contextmanager
    def open(self, path: Path, page: int | None) -> Iterator[Slide]:
        """Open a slide; see `ImageReader`."""
        import_extra("openslide", "slides", path)
        if page:
            raise UserError(f"the slide {path} has one page: got page {page}; leave the page away")
        slide = Slide(path)
        try:
            yield slide
        finally:
            slide.close()


class Slide:
    """An opened slide.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handles = Handles(self._open)
        with _naming(path), self._handles.lend(0) as slide:
            _check_tiles(path, slide)
            self._info, self._factors = _info(slide), tuple(slide.level_downsamples)
            colour = slide.properties.get("openslide.background-color", "ffffff")
            self._background = np.frombuffer(bytes.fromhex(colour), np.uint8)

    @property
    def info(self) -> ImageInfo:
        """What the header says."""
        return self._info

    def read(self, region: Region, level: int = 0) -> np.ndarray:
        """Return the samples of a region of a level; see `OpenedImage`."""
        if not region.volume:
            return np.empty((4, *region.size), np.uint8)
        factor = self._factors[level]
        top, left = (meeting_place(start, factor) for start in region.start)
        size = (region.end[1] - left, region.end[0] - top)
        with _naming(self._path), self._handles.lend(0) as slide:
            pixels = np.asarray(slide.read_region((round(left * factor), round(top * factor)), level, size))
        samples = pixels[region.top - top :, region.left - left :].transpose(2, 0, 1).copy()
        samples[:3, samples[3] == 0] = self._background[:, None]
        return samples

    def close(self) -> None:
        """Close all handles."""
        self._handles.close()

    def _open(self, level: int) -> Any:
        import openslide

        slide = openslide.OpenSlide(self._path)
        slide.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
        return slide


def meeting_place(start: int, factor: float) -> int:
    """Return the last pixel of a level, not behind `start`, that begins where a pixel of full resolution does; the nearest to it if none is near.

    Args:
        start: A row or column of the level.
        factor: Pixels of full resolution that one of the level spans.

    Example:
        >>> meeting_place(33, 4.0), meeting_place(7, 4.5)
        (33, 6)
    """
    places = np.arange(start, max(start - _LOOKED_BACK, 0) - 1, -1)
    beside = np.abs(np.round(places * factor) - places * factor) / factor
    meets = np.flatnonzero(beside < _MEET)
    return int(places[meets[0]] if meets.size else places[beside.argmin()])


def _check_tiles(path: Path, slide: Any) -> None:
    """Refuse tiles that are larger than memory may be: OpenSlide ends the process where it finds none.

    Raises:
        UserError: If a level has such tiles.
    """
    for level in range(slide.level_count):
        sides = [
            _number(slide.properties.get(f"openslide.level[{level}].tile-{side}"))
            for side in ("height", "width")
        ]
        height, width = (1.0 if side is None else side for side in sides)
        if height * width > MAX_TILE_PIXELS:
            raise UserError(
                f"cannot decode the slide {path}: tiles of {width:.0f} x {height:.0f} pixels, which are decoded at once; save it "
                "in smaller tiles"
            )


def _info(slide: Any) -> ImageInfo:
    properties = slide.properties
    microns = [_number(properties.get(f"openslide.mpp-{one}")) for one in "yx"]
    block = [_number(properties.get(f"openslide.level[0].tile-{side}")) for side in ("height", "width")]
    return ImageInfo(
        tuple((height, width) for width, height in slide.level_dimensions),
        "uint8",
        ("red", "green", "blue", "alpha"),
        microns_per_pixel=None if None in microns else tuple(one for one in microns if one is not None),
        block=None if None in block else tuple(int(one) for one in block if one is not None),
    )


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if np.isfinite(value) and value > 0 else None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let whatever OpenSlide raises in the body name the file."""
    import openslide

    try:
        yield
    except (openslide.OpenSlideError, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot decode the slide {path}: {error}") from error
