"""Reading the tiles of images in the order of computation, region by region, ahead of it and in bounded memory.

A region holds tiles that follow each other: some rows of tiles of a large image, or a small image whole. Of an image whose file
can be read in parts only the region is read, and of rows that the region before has read already, those are taken from there.
Any other image is decoded once, and kept until its last region is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Region, cut_out
from ziggurat.data.readers.images import ReadsWindows
from ziggurat.data.views import Piece, View, Wanted, wanted_pixels
from ziggurat.errors import UserError

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
    images: Images, views: Sequence[View], pieces: Sequence[Piece]
) -> Generator[Tensor | UserError, None, None]:
    """Yield the pixels of each tile, from 0 to 255, shape ``(3, H, W)``, or why its image cannot be decoded.

    Args:
        images: As they lie in their files.
        views: How the network sees each of them.
        pieces: Tiles, those of an image one after the other.
    """
    wanted = wanted_pixels(pieces, REGION_PIXELS)
    with closing(_read_ahead(RegionReader(images, views), wanted)) as read:
        for one in wanted:
            pixels = next(read)
            for tile in one.tiles:
                if isinstance(pixels, UserError):
                    yield pixels
                else:
                    yield pixels[tile.seen_from(one.region.start).last_dims]


def _read_ahead(reader: RegionReader, wanted: Sequence[Wanted]) -> Generator[Tensor | UserError, None, None]:
    """Yield each region, reading the next ones in a thread meanwhile."""
    waiting: deque[tuple[int, Future[Tensor | UserError]]] = deque()
    last = len(wanted) - 1
    upcoming = iter(enumerate(wanted))
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode") as thread:

        def look_ahead() -> None:
            while not waiting or sum(pixels for pixels, _ in waiting) < AHEAD_PIXELS:
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

    Args:
        images: As they lie in their files.
        views: How the network sees each of them.
    """

    def __init__(self, images: Images, views: Sequence[View] | Mapping[int, View]) -> None:
        self._images, self._views = images, views
        self._last: _Last | None = None

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
        try:
            found = self._window(index, region, last)
            if found is None:
                is_whole = last is not None and last.region == Region.whole(self._views[index].extent)
                found = last if last is not None and is_whole else self._whole(index)
        except UserError as error:
            return error
        if more:
            self._last = found
        if found.region == region:
            return found.pixels
        # of an image that is not kept a view would keep all of it
        return cut_out(found.pixels, region.seen_from(found.region.start))

    def _window(self, index: int, region: Region, last: _Last | None) -> _Last | None:
        """Return a region read by itself; None where the file cannot be read in parts, or all is wanted."""
        view = self._views[index]
        whole = Region.whole(view.extent)
        is_resized = view.extent != self._images.record(index).extent
        if is_resized or region == whole or not isinstance(self._images, ReadsWindows):
            return None
        if last is not None and last.region == whole:
            return None
        known = _first_rows(region, last)
        rest = Region((known, *region.start[1:]), (region.end[0] - known, *region.size[1:]))
        pixels = self._images.window(index, rest)
        if pixels is None:
            return None
        if last is not None and known > region.start[0]:
            rows = slice(region.start[0] - last.region.start[0], known - last.region.start[0])
            pixels = torch.cat([last.pixels[:, rows], pixels], dim=1)
        return _Last(index, region, pixels)

    def _whole(self, index: int) -> _Last:
        """Return an image decoded as a whole, and resized."""
        view, record = self._views[index], self._images.record(index)
        image = self._images.image(index)
        if image.shape[1:] != record.extent:
            raise UserError(
                f"the image {record.name} has {image.shape[2]} x {image.shape[1]} pixels, not {record.width} x "
                f"{record.height} as its header or annotations say: replace the image or correct its size"
            )
        if view.extent != record.extent:
            # In floating point, as torchvision's detectors do; antialias acts only where the image gets smaller.
            image = functional.resize(image.float(), list(view.extent), antialias=view.antialias)
        return _Last(index, Region.whole(view.extent), image)


def _first_rows(region: Region, last: _Last | None) -> int:
    """Return the first row of a region that was not read with the one before: its own first if none was."""
    if last is None or last.region.start[1:] != region.start[1:] or last.region.size[1:] != region.size[1:]:
        return region.start[0]
    begin, end = last.region.start[0], last.region.end[0]
    return end if begin <= region.start[0] < end < region.end[0] else region.start[0]
