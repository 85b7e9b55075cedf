"""Reading the tiles of images in the order of computation, region by region, ahead of it and in bounded memory.

A region holds tiles that follow each other: some rows of tiles of a large image, or a small image whole. Of an image whose file
can be read in parts only the region is read (of one that is resized, the pixels that make up the region), and of rows that the region before has
read already, those are taken from there. Any other image is decoded once, and kept until its last region is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Extent, Region, cut_out, volume
from ziggurat.data.readers.images import levels_of, window_of
from ziggurat.data.resampling import READ_PIXELS, grids_of, level_for, resized_region
from ziggurat.data.views import Piece, View, Wanted, wanted_pixels
from ziggurat.errors import UserError

_BYTES = 3  # of a pixel of red, green and blue of 8 bits; of pixels of more bytes regions have fewer
_RESIZED_BYTES = 12  # of such a pixel, once it is resized
# Pixels of a region, of several tiles: three bytes each, and as many for the next one.
REGION_PIXELS = 1 << 24
# Pixels of regions that are read ahead (one region at least).
AHEAD_PIXELS = 1 << 22


class Images(Protocol):
    """Images with known sizes; every data set is one."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def record(self, index: int) -> ImageRecord:
        """Return what is known of an image, without decoding it."""
        ...

    def image(self, index: int) -> Tensor:
        """Return an image, RGB, uint8, shape ``(3, H, W)``."""
        ...


def read_tiles(
    images: Images, views: Sequence[View], pieces: Sequence[Piece], pixel_bytes: int = _BYTES
) -> Generator[Tensor | UserError, None, None]:
    """Yield the pixels of each tile, from 0 to 255, shape ``(3, H, W)``, or why its image cannot be decoded.

    Args:
        images: As they lie in their files.
        views: How the network sees each of them.
        pieces: Tiles, those of an image one after the other.
        pixel_bytes: Of a pixel of them, all bands.
    """
    is_resized = any(
        views[index].extent != images.record(index).extent for index in {one.image for one in pieces}
    )
    cost = max(_BYTES, pixel_bytes, _RESIZED_BYTES if is_resized else 0)
    wanted = wanted_pixels(pieces, max(1, REGION_PIXELS * _BYTES // cost))
    with closing(_read_ahead(RegionReader(images, views), wanted, AHEAD_PIXELS * _BYTES // cost)) as read:
        for one in wanted:
            pixels = next(read)
            for tile in one.tiles:
                if isinstance(pixels, UserError):
                    yield pixels
                else:
                    yield pixels[tile.seen_from(one.region.start).last_dims]


def _read_ahead(
    reader: RegionReader, wanted: Sequence[Wanted], most: int
) -> Generator[Tensor | UserError, None, None]:
    """Yield each region, reading the next ones in a thread meanwhile: regions of `most` pixels, or one."""
    waiting: deque[tuple[int, Future[Tensor | UserError]]] = deque()
    last = len(wanted) - 1
    upcoming = iter(enumerate(wanted))
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode") as thread:

        def look_ahead() -> None:
            while not waiting or sum(pixels for pixels, _ in waiting) < most:
                number, one = next(upcoming, (-1, None))
                if one is None:
                    return
                more = number < last and wanted[number + 1].image == one.image
                waiting.append((one.region.volume, thread.submit(reader.read, one.image, one.region, more)))

        try:
            look_ahead()
            while waiting:
                _, future = waiting.popleft()
                look_ahead()  # the next one is read while this one is used
                yield future.result()
                del future  # and its pixels with it
        finally:
            thread.shutdown(wait=False, cancel_futures=True)


class _Last(NamedTuple):
    """What was read last.

    Attributes:
        image: The image's index.
        region: In pixels of the resized image.
        pixels: Shape ``(3, *region.size)``.
    """

    image: int
    region: Region
    pixels: Tensor


class RegionReader:
    """Reads regions of images as the network sees them; one thread at a time.

    A region has the same bits whatever was read before it. Of an image that is resized, those pixels are read that make up the region: of
    the coarsest level of its file that is not coarser than the resized image (`level_for`), where the resized image is smoothed.

    Args:
        images: As they lie in their files.
        views: How the network sees each of them.
    """

    def __init__(self, images: Images, views: Sequence[View] | Mapping[int, View]) -> None:
        self._images, self._views = images, views
        self._last: _Last | None = None
        self._decoded: tuple[int, Tensor] | None = None  # an image that cannot be read in parts
        self._levels: tuple[int, tuple[Extent, ...]] | None = None

    def read(self, index: int, region: Region, more: bool = False) -> Tensor | UserError:
        """Return a region of an image, from 0 to 255, shape ``(3, *region.size)``, or why there is none.

        Args:
            index: Of the image.
            region: In pixels of the resized image.
            more: Whether another region of it follows.
        """
        last, self._last = self._last, None
        if last is not None and last.image != index:
            last = None
        if self._decoded is not None and self._decoded[0] != index:
            self._decoded = None
        try:
            pixels = self._joined(index, region, last)
        except UserError as error:
            return error
        if not more:
            self._decoded = None
        elif self._decoded is None:
            self._last = _Last(index, region, pixels)
        return pixels

    def _joined(self, index: int, region: Region, last: _Last | None) -> Tensor:
        """Return a region, of which some rows may have been read with the last one."""
        known = _first_rows(region, last)
        rest = Region((known, *region.start[1:]), (region.end[0] - known, *region.size[1:]))
        pixels = self._resized(index, rest)
        if last is None or known == region.start[0]:
            return pixels
        rows = slice(region.start[0] - last.region.start[0], known - last.region.start[0])
        return torch.cat([last.pixels[:, rows], pixels], dim=1)

    def _resized(self, index: int, region: Region) -> Tensor:
        """Return a region that was not read before."""
        view, extent = self._views[index], self._images.record(index).extent
        if view.extent == extent:
            if region == Region.whole(extent):
                return self._whole(index)
            window = self._window(index, region)
            # a view would keep all of the image
            return cut_out(self._whole(index), region) if window is None else window
        levels = self._levels_of(index) if view.antialias else (extent,)
        level = level_for(levels, view.extent)

        def read(source: Region) -> Tensor:
            is_small = level == 0 and volume(extent) <= READ_PIXELS  # and may be decoded once for all regions
            window = None if is_small else self._window(index, source, level)
            return self._whole(index)[source.last_dims] if window is None else window

        # In floating point, as torchvision's detectors do.
        return resized_region(read, grids_of(levels[level], view.extent), region, view.antialias)

    def _levels_of(self, index: int) -> tuple[Extent, ...]:
        """Return the extents of an image's levels, whose header is read once for its regions."""
        if self._levels is None or self._levels[0] != index:
            self._levels = index, levels_of(self._images, index, self._images.record(index).extent)
        return self._levels[1]

    def _window(self, index: int, region: Region, level: int = 0) -> Tensor | None:
        """Return a window of an image read by itself; None where the file cannot be read in parts."""
        return None if self._decoded is not None else window_of(self._images, index, region, level)

    def _whole(self, index: int) -> Tensor:
        """Return an image decoded as a whole, for this region and the next ones."""
        if self._decoded is None:
            image, record = self._images.image(index), self._images.record(index)
            if image.shape[1:] != record.extent:
                raise UserError(
                    f"the image {record.name} has {image.shape[2]} x {image.shape[1]} pixels, not {record.width} x "
                    f"{record.height} as its header or annotations say: replace the image or correct its size"
                )
            self._decoded = index, image
        return self._decoded[1]


def _first_rows(region: Region, last: _Last | None) -> int:
    """Return the first row of a region that was not read with the one before: its own first if none was."""
    if last is None or last.region.start[1:] != region.start[1:] or last.region.size[1:] != region.size[1:]:
        return region.start[0]
    begin, end = last.region.start[0], last.region.end[0]
    return end if begin <= region.start[0] < end < region.end[0] else region.start[0]
