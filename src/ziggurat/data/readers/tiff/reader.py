"""The reader of TIFF files.

A picture's tags are read once, when it is opened; a region reads the strips or tiles that it touches, one after the other::

    directories   where each picture lies, and that it can be        find_directories
    tags          what its samples are, checked                      page_of
    a region      turned as it lies in the file                      Turn.stored
      segments    those that it touches, decoded or kept             decode_rows, Kept
      colours     as they are meant                                  shown
      upright                                                        Turn.upright
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ziggurat.data.extents import Region
from ziggurat.data.readers.opened import Georeference, ImageInfo, OpenedImage
from ziggurat.data.readers.pillow import open_with_pillow
from ziggurat.data.readers.tiff.colour import check_colours, depth_of, roles_of, shown
from ziggurat.data.readers.tiff.directories import (
    DamagedTiffError,
    Directory,
    cannot_be_read,
    find_directories,
    inner_reduced,
)
from ziggurat.data.readers.tiff.kept import Kept
from ziggurat.data.readers.tiff.metadata import georeference_of, microns_of, names_of, nodata_of, stack_of
from ziggurat.data.readers.tiff.page import JPEG, NONE, YCBCR, Page, page_of
from ziggurat.data.readers.tiff.segments import IN_PARTS, READ, decode_rows
from ziggurat.data.readers.turning import Turn
from ziggurat.errors import UserError

KEPT_BYTES = 1 << 26  # of decoded strips and tiles, of all files together
KEPT_ALONE = 1 << 28  # of a larger one; a still larger one is decoded anew for each region
KEPT_TAGS = 1 << 24  # of what the tags of images say
MOST_LEVELS = 32

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it logs on errors, we say ourselves


class TiffReader:
    """Reads TIFF of every kind.

    Args:
        kept_bytes: Most bytes of decoded strips and tiles that are kept.
        kept_alone: Most bytes of a larger one, which is kept alone.
    """

    suffixes: Sequence[str] = (".tif", ".tiff")

    def __init__(self, kept_bytes: int = KEPT_BYTES, kept_alone: int = KEPT_ALONE) -> None:
        self.kept: Kept[np.ndarray] = Kept(kept_bytes, kept_alone)
        self.opened: Kept[TiffImage] = Kept(KEPT_TAGS)

    def forget(self) -> None:
        """Keep nothing of what was read before."""
        self.kept.forget()
        self.opened.forget()

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether a file begins as a TIFF or a BigTIFF."""
        return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

    def open(self, path: Path, page: int | None) -> AbstractContextManager[OpenedImage]:
        """Open a picture; what neither tifffile nor imagecodecs decodes (old JPEG, YCbCr of other compressions) is left to Pillow.

        Raises:
            UserError: If the file is damaged, or there is no such page.
            DamagedTiffError: If it cannot be read, with the reason.
        """
        return self._open(path, page)

    @contextmanager
    def _open(self, path: Path, number: int | None) -> Iterator[OpenedImage]:
        about = path.stat()
        identity = (about.st_dev, about.st_ino, about.st_mtime_ns, about.st_size)
        try:
            image = self.opened.get((path, *identity, number), lambda: self._look(path, identity, number))
        except _ForPillow:
            with open_with_pillow(path, number) as other:
                yield other
        else:
            yield image

    def _look(self, path: Path, identity: tuple[int, ...], number: int | None) -> TiffImage:
        """Read the tags of a picture.

        Raises:
            _ForPillow: If Pillow is to read it.
        """
        with path.open("rb") as file:
            levels, info = _look(file, path, number)
        return TiffImage(path, identity, levels, info, self.kept)


class _ForPillow(Exception):  # noqa: N818 - no error: another reads it
    """Pillow decodes what imagecodecs does not."""


class TiffImage:
    """A picture of a TIFF; holds no open file.

    Args:
        path: The file.
        identity: What tells the file from one that replaces it.
        levels: Its pages, the finest first.
        info: What its tags say.
        kept: Keeps what was decoded last.
    """

    def __init__(
        self,
        path: Path,
        identity: tuple[int, ...],
        levels: list[Page],
        info: ImageInfo,
        kept: Kept[np.ndarray],
    ) -> None:
        self.path, self.levels, self.info = path, levels, info
        self._identity, self._kept = identity, kept
        self._turn = Turn(levels[0].orientation)
        self.nbytes = 4096 + sum(page.offsets.nbytes + page.sizes.nbytes for page in levels)  # about

    def read(self, region: Region, level: int = 0) -> np.ndarray:
        """Return the samples of a region, shape ``(C, *region.size)``; see `OpenedImage`."""
        page = self.levels[level]
        stored = self._turn.stored(region, page.extent)
        samples = shown(self._samples(page, stored), page)
        return np.ascontiguousarray(self._turn.upright(samples))

    def indices(self, region: Region) -> np.ndarray | None:
        """Return the numbers of the palette's colours in a region, shape ``region.size``; None without a palette."""
        page = self.levels[0]
        if page.palette is None:
            return None
        samples = self._samples(page, self._turn.stored(region, page.extent))
        return np.ascontiguousarray(self._turn.upright(samples)[0])

    def _samples(self, page: Page, region: Region) -> np.ndarray:
        """Return samples as they lie in the file, shape ``(samples, *region.size)``."""
        fill = 0 if self.info.nodata is None else _castable(self.info.nodata, page)
        found = np.full((page.samples, *region.size), fill, dtype=page.dtype)
        if not region.volume:
            return found
        down, across = page.grid
        firsts = [start // part for start, part in zip(region.start, page.segment, strict=True)]
        ends = [-(-end // part) for end, part in zip(region.end, page.segment, strict=True)]
        with self.path.open("rb") as file:
            for plane in range(page.samples if page.is_planar else 1):
                bands = slice(plane, plane + 1) if page.is_planar else slice(None)
                for row in range(firsts[0], ends[0]):
                    for column in range(firsts[1], ends[1]):
                        index = (plane * down + row) * across + column
                        self._copy(file, page, index, (row, column), found[bands], region)
        return found

    def _copy(
        self,
        file: BinaryIO,
        page: Page,
        index: int,
        place: tuple[int, int],
        found: np.ndarray,
        region: Region,
    ) -> None:
        """Copy what a strip or tile has of a region."""
        if not page.sizes[index]:  # nothing was written there
            return
        start = tuple(number * part for number, part in zip(place, page.segment, strict=True))
        rows = page.segment[0] if page.is_tiled else min(page.segment[0], page.extent[0] - start[0])
        wanted = Region(start, (rows, page.segment[1])).intersection(region)
        inner = wanted.seen_from(start)
        first, last = inner.start[0], inner.end[0]
        nbytes = page.segment[0] * page.row_bytes(page.segment[1])
        if page.compression == NONE or (page.compression in IN_PARTS and nbytes > self._kept.alone):
            samples = decode_rows(file, page, index, rows, first, last)
        else:
            key = (*self._identity, page.place, int(page.offsets[index]), index)
            samples = self._kept.get(key, lambda: decode_rows(file, page, index, rows, 0, rows))[first:last]
        columns = slice(inner.start[1], inner.end[1])
        found[(slice(None), *wanted.seen_from(region.start).slices)] = np.moveaxis(samples[:, columns], -1, 0)


def _castable(value: float, page: Page) -> Any:
    """Return the nodata value in the type of a page's samples; 0 where it is none of theirs."""
    if page.kind in "ui":
        bounds = np.iinfo(page.dtype)
        return int(value) if bounds.min <= value <= bounds.max and value == int(value) else 0
    return value


def _look(file: BinaryIO, path: Path, number: int | None) -> tuple[list[Page], ImageInfo]:
    """Return the levels of a picture, the finest first, and what its tags say."""
    import tifffile  # here: it takes long to be imported

    directories = find_directories(file)
    pictures = [one for one in directories if not (one.is_reduced or one.is_mask)] or directories[:1]
    file.seek(0)
    with tifffile.TiffFile(file, name=path.name) as tiff:
        first = _page_at(tiff, pictures[0].offset)
        stack = stack_of(first) if len(pictures) == 1 else 1
        chosen = number or 0
        if chosen >= max(stack, len(pictures)):
            last = max(stack, len(pictures)) - 1
            raise UserError(
                f"the image {path} has no page {chosen}: pages count from 0, and the last is {last}"
            )
        directory = pictures[chosen] if stack == 1 else pictures[0]
        found = first if directory is pictures[0] else _page_at(tiff, directory.offset)
        if _is_for_pillow(found):
            raise _ForPillow
        page = page_of(found)
        check_colours(page)
        if page.compression not in READ:
            raise cannot_be_read(f"it is compressed by the method {page.compression}")
        if chosen and stack > 1:
            page = _moved(page, chosen)
        levels = [page, *_smaller(tiff, file, directories, directory, page)]
        microns = microns_of(first)  # OME and ImageJ say it of all pages in the first
        return levels, _info(found, levels, max(stack, len(pictures)), microns)


def _page_at(tiff: Any, offset: int) -> Any:
    """Return tifffile's page whose tags lie at a place."""
    import tifffile

    if tiff.pages.first.offset == offset:
        return tiff.pages.first
    tiff.filehandle.seek(offset)
    return tifffile.TiffPage(tiff, index=1)


def _is_for_pillow(found: Any) -> bool:
    compression = int(found.compression)
    return (int(found.photometric) == YCBCR and compression != JPEG) or (
        compression not in READ and compression in (6, 32809, 34661, 34676, 34677)
    )


def _moved(page: Page, number: int) -> Page:
    """Return a later picture of those that ImageJ has written one behind the other.

    Raises:
        DamagedTiffError: If they are compressed, which ImageJ does not do.
    """
    if page.compression != NONE or len(page.offsets) != 1:
        raise DamagedTiffError(f"its picture {number} lies in no page of its own, and is compressed")
    nbytes = page.extent[0] * page.row_bytes(page.extent[1])
    return replace(page, offsets=page.offsets + number * nbytes, sizes=np.array([nbytes]))


def _smaller(
    tiff: Any, file: BinaryIO, directories: list[Directory], directory: Directory, page: Page
) -> list[Page]:
    """Return the smaller copies of a picture, from the finest on: those in its directory, or those that follow it."""
    offsets = inner_reduced(file, directory)
    if not offsets:
        after = directories[directories.index(directory) + 1 :]
        count = next((n for n, one in enumerate(after) if not (one.is_reduced or one.is_mask)), len(after))
        offsets = [one.offset for one in after[:count] if one.is_reduced and not one.is_mask]
    found: list[Page] = []
    for offset in offsets[:MOST_LEVELS]:
        try:
            smaller = page_of(_page_at(tiff, offset))
            check_colours(smaller)
        except DamagedTiffError:
            continue  # a copy that cannot be read is none; the picture itself can
        same = (smaller.samples, smaller.bits, smaller.kind) == (page.samples, page.bits, page.kind)
        if same and smaller.compression in READ and roles_of(smaller) == roles_of(page):
            found.append(smaller)
    found.sort(key=lambda one: -one.extent[0] * one.extent[1])
    return [one for one in found if one.extent[0] < page.extent[0] and one.extent[1] <= page.extent[1]]


def _info(found: Any, levels: list[Page], pages: int, microns: tuple[float, ...] | None) -> ImageInfo:
    page, turn = levels[0], Turn(levels[0].orientation)
    extents = tuple(turn.extent(one.extent) for one in levels)
    roles, (dtype, bits) = roles_of(page), depth_of(page)
    georeference = georeference_of(found)
    if georeference is not None and turn.orientation != 1:
        a, b, c, d, e, f = turn.transform(georeference.transform, extents[0])
        georeference = Georeference((a, b, c, d, e, f), georeference.crs)
    if microns is not None:
        microns = turn.extent(microns)  # type: ignore[arg-type] # of any numbers
    block = None if page.compression in IN_PARTS else turn.extent(page.segment)
    return ImageInfo(
        extents, dtype, roles, bits,
        nodata=None if page.palette is not None else nodata_of(found),
        georeference=georeference,
        microns_per_pixel=microns,
        pages=pages,
        names=names_of(found, len(roles)),
        block=block,
        orientation=page.orientation if 1 <= page.orientation <= 8 else 1,
    )  # fmt: skip
