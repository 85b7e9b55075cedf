"""Reading a window of an image file, without the rest of the file.

Which files can be read in parts:

====================================  =======================================================================
BMP, PPM, PGM; TIFF, not compressed   only the rows of the window are read (of a tiled TIFF, only its tiles)
TIFF, compressed by deflate           only the strips or tiles that the window touches are read and inflated; the last
                                      one is kept, as windows of a file often share it
others (PNG, JPEG, LZW, WebP ...)     cannot be: their pixels follow from all that stand before them in the file
====================================  =======================================================================

Grey and RGB of 8 bits a channel, with or without alpha, and upright; `images` reads all others, as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ziggurat.data.extents import Extent, Region
from ziggurat.data.readers.composite import check_reading, eight_bits
from ziggurat.data.readers.images import check_at_once, reader_for
from ziggurat.data.readers.inflating import inflate
from ziggurat.data.readers.layout import AS_THEY_ARE, Reading
from ziggurat.data.readers.opened import ImageReader
from ziggurat.data.readers.opening import open_image, orientation
from ziggurat.data.readers.pages import split_page
from ziggurat.data.readers.registry import open_by_reader

# Of each of Pillow's modes: its raw modes, and where each has red, green and blue among its channels.
CHANNELS = {
    "L": {"L": (0, 0, 0)},
    "RGB": {"RGB": (0, 1, 2), "BGR": (2, 1, 0), "RGBX": (0, 1, 2), "BGRX": (2, 1, 0)},
}
CHANNELS["RGBA"] = {"RGBA": (0, 1, 2), "BGRA": (2, 1, 0)}

# Tags of TIFF 6.0
BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 258, 259, 262, 266
STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_BYTES, PLANAR, PREDICTOR = 273, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
DEFLATE = (8, 32946)
MODE_OF_PHOTOMETRIC = {(1, 1): "L", (2, 3): "RGB", (2, 4): "RGBA"}  # by photometric and number of samples

KEPT_BYTES = 1 << 28  # a larger strip is inflated anew for each window
SPARE_BYTES = 1 << 26  # a tile or padded row may have more pixels than a small image: 4096 x 4096 of them


@runtime_checkable
class ReadsWindows(Protocol):
    """Images of which windows can be read, where their files can."""

    def window(self, index: int, region: Region) -> Tensor | None:
        """Return a window of an image, RGB, uint8, or None if it has to be read as a whole."""
        ...


@dataclass(frozen=True)
class _Chunk:
    """Some pixels that lie together in a file.

    Attributes:
        box: Left, top, right and bottom in the image.
        offset: First byte.
        stride: Bytes from row to row.
        rows: Rows in the file: more than the box has, where a tile reaches beyond the image.
        bottom_up: Whether the last row is the first in the file.
        size: Bytes if they are deflated, otherwise 0.
        predicted: Whether each pixel is the difference to the one on its left.
    """

    box: tuple[int, int, int, int]
    offset: int
    stride: int
    rows: int
    bottom_up: bool = False
    size: int = 0
    predicted: bool = False


@dataclass(frozen=True)
class _Layout:
    """Where a file has its pixels, and which of the channels are red, green and blue."""

    chunks: Sequence[_Chunk]
    num_channels: int
    rgb: tuple[int, int, int]


class WindowReader:
    """Reads windows of image files, and keeps the strip or tile that was inflated last.

    Safe to call from several threads: what is kept is one value, which is looked at once and replaced as a whole.

    Args:
        kept_bytes: Larger strips are not kept.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._kept: tuple[_Key, bytes] | None = None

    def read(
        self, path: Path, max_pixels: int, size: Extent, region: Region, reading: Reading = AS_THEY_ARE
    ) -> Tensor | None:
        """Return a window of an image.

        Args:
            path: The image file.
            max_pixels: Larger images are refused.
            size: Rows and columns that the image must have.
            region: The window, within the image.
            reading: How samples become pixels.

        Returns:
            RGB, uint8, shape ``(3, *region.size)``: the pixels that `read_image` gives; None if the file
            cannot be read in parts, or its image is not of that size.

        Raises:
            UserError: If there is no such image, or it cannot be decoded.
        """
        reader = reader_for(path)
        if reader is not None:
            return _window_by(reader, path, max_pixels, size, region, reading)
        with open_image(path, max_pixels) as image:
            if orientation(image) != 1 or (image.height, image.width) != size:
                return None
            layout = _layout_of(image)
            if layout is None:
                return None
            pixels = np.empty((*region.size, layout.num_channels), dtype=np.uint8)
            with path.open("rb") as file:
                for chunk in layout.chunks:
                    self._copy(file, chunk, pixels, region)
        return torch.from_numpy(pixels[:, :, layout.rgb].transpose(2, 0, 1).copy())

    def _copy(self, file: BinaryIO, chunk: _Chunk, pixels: np.ndarray, region: Region) -> None:
        """Copy what a chunk has of a window."""
        left, top, right, bottom = chunk.box
        wanted = region.intersection(Region.between((top, left), (bottom, right)))
        if not wanted.volume:
            return
        rows, columns = wanted.seen_from((top, left)).slices
        data = self._bytes(file, chunk, rows.start, rows.stop)
        found = _rows(data, chunk, rows.stop - rows.start, pixels.shape[2])
        pixels[wanted.seen_from(region.start).slices] = found[:, columns]

    def _bytes(self, file: BinaryIO, chunk: _Chunk, first: int, last: int) -> bytes:
        """Return the bytes of some rows of a chunk, or as many as there are."""
        start, end = first * chunk.stride, last * chunk.stride
        if not chunk.size:
            if chunk.bottom_up:
                height = chunk.box[3] - chunk.box[1]
                start, end = (height - last) * chunk.stride, (height - first) * chunk.stride
            file.seek(chunk.offset + start)
            return file.read(end - start)
        whole = chunk.rows * chunk.stride
        if whole > self._kept_bytes:
            return inflate(file, chunk.offset, chunk.size, start, end)
        about = os.fstat(file.fileno())
        key = (about.st_dev, about.st_ino, about.st_mtime_ns, about.st_size, chunk.offset, whole)
        kept = self._kept
        if kept is None or kept[0] != key:
            self._kept = kept = (key, inflate(file, chunk.offset, chunk.size, 0, whole))
        return kept[1][start:end]


def _window_by(
    reader: ImageReader, path: Path, max_pixels: int, size: Extent, region: Region, reading: Reading
) -> Tensor | None:
    with open_by_reader(path, reader) as image:
        info = image.info
        if info.extent != size or info.block == info.extent:
            return None
        for extent in (info.block, region.size):
            if extent is not None:
                check_at_once(path, extent, max_pixels)
        check_reading(path, info, reading, split_page(path)[1])
        return torch.from_numpy(eight_bits(image.read(region), info, reading))


_Key = tuple[int, ...]  # a file as it is now, and a place in it


def read_window(path: Path, max_pixels: int, size: Extent, region: Region) -> Tensor | None:
    """Return a window of an image, as `WindowReader.read`, of which nothing is kept."""
    return WindowReader(kept_bytes=0).read(path, max_pixels, size, region)


def _rows(data: bytes, chunk: _Chunk, count: int, num_channels: int) -> np.ndarray:
    """Return some rows of a chunk from their bytes, uint8, shape ``(rows, columns, channels)``."""
    width = chunk.box[2] - chunk.box[0]
    # the last row of a file need not be filled up to the stride
    lines = np.zeros(count * chunk.stride, dtype=np.uint8)
    needed = (count - 1) * chunk.stride + width * num_channels
    if len(data) < needed:
        raise OSError(f"the file is truncated ({needed - len(data)} bytes missing)")
    lines[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    used = lines.reshape(count, chunk.stride)[:, : chunk.stride // num_channels * num_channels]
    rows = used.reshape(count, -1, num_channels)
    if chunk.predicted:
        rows = np.add.accumulate(rows, axis=1, dtype=np.uint8)
    return rows[::-1] if chunk.bottom_up else rows


def _layout_of(image: Image.Image) -> _Layout | None:
    """Return where a file has its pixels, or None if it cannot be read in parts."""
    entries: Any = getattr(image, "tile", [])
    if entries and all(entry[0] == "raw" for entry in entries):
        layout = _raw_layout(image.mode, entries)
    else:
        layout = _deflated_layout(image) if image.format == "TIFF" else None
    if layout is not None:
        _check_bytes(image, layout)
    return layout


def _check_bytes(image: Image.Image, layout: _Layout) -> None:
    """Refuse a file whose header asks for much more memory than its image has pixels: a tile of 1 GB for 8 x 8 of them.

    Raises:
        OSError: If it does.
    """
    most = 4 * layout.num_channels * image.width * image.height + SPARE_BYTES
    largest = max((chunk.rows * chunk.stride for chunk in layout.chunks), default=0)
    if not 0 <= largest <= most:
        raise OSError(
            f"a strip or tile is said to have {largest} bytes, the image has {image.width} x {image.height} pixels"
        )


def _raw_layout(mode: str, entries: Sequence[Any]) -> _Layout | None:
    chunks, raw_modes = [], set()
    for _, box, offset, given in entries:
        arguments = (given,) if isinstance(given, str) else tuple(given)
        raw_mode, stride, step = (*arguments, 0, 1)[:3] if len(arguments) < 3 else arguments[:3]
        raw_modes.add(raw_mode)
        stride = stride or (box[2] - box[0]) * len(raw_mode)
        chunks.append(_Chunk(tuple(box), offset, stride, box[3] - box[1], step == -1))
    rgb = CHANNELS.get(mode, {}).get(raw_mode)
    if rgb is None or len(raw_modes) != 1:
        return None
    return _Layout(chunks, len(raw_mode), rgb)


def _deflated_layout(image: Any) -> _Layout | None:
    tags = image.tag_v2
    bits = tags.get(BITS, (1,))
    mode = MODE_OF_PHOTOMETRIC.get((tags.get(PHOTOMETRIC), len(bits)))
    predictor = tags.get(PREDICTOR, 1)
    plain = tags.get(PLANAR, 1) == 1 and tags.get(FILL_ORDER, 1) == 1 and predictor in (1, 2)
    if (
        tags.get(COMPRESSION) not in DEFLATE
        or set(bits) != {8}
        or mode is None
        or mode != image.mode
        or not plain
    ):
        return None
    num_channels = len(bits)
    width, height = image.size
    tile_width, tile_height = tags.get(TILE_WIDTH), tags.get(TILE_HEIGHT)
    offsets, sizes = tags.get(TILE_OFFSETS), tags.get(TILE_BYTES)
    if tile_width is None:
        tile_width, tile_height = width, min(tags.get(ROWS_PER_STRIP, height), height)
        offsets, sizes = tags.get(STRIP_OFFSETS), tags.get(STRIP_BYTES)
    count = -(-height // tile_height) * -(-width // tile_width)  # before as many are listed
    if offsets is None or sizes is None or not len(offsets) == len(sizes) == count:
        return None
    corners = [(x, y) for y in range(0, height, tile_height) for x in range(0, width, tile_width)]
    chunks = [
        _Chunk(
            (x, y, min(x + tile_width, width), min(y + tile_height, height)),
            offset, tile_width * num_channels, tile_height, size=size, predicted=predictor == 2,
        )
        for (x, y), offset, size in zip(corners, offsets, sizes, strict=True)
    ]  # fmt: skip
    return _Layout(chunks, num_channels, CHANNELS[mode][mode])
