"""Decoding a strip or tile of a TIFF: no further than its pixels, whatever the file says.

A codec is told how many bytes or which shape there is room for, and gives no more. Rows of strips that are not compressed, or by deflate, are
read without the rows after them.

Shapes: ``r`` rows, ``c`` columns and ``s`` samples of a strip or tile.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np

from ziggurat.data.readers.inflating import inflate
from ziggurat.data.readers.tiff.directories import DamagedTiffError
from ziggurat.data.readers.tiff.page import (
    CCITT,
    CMYK,
    DEFLATE,
    JPEG,
    JPEG_2000,
    JPEG_XL,
    LERC,
    LZMA,
    LZW,
    NONE,
    PACKBITS,
    PNG,
    RGB,
    WEBP,
    YCBCR,
    ZSTD,
    Page,
)

IN_PARTS = (NONE, *DEFLATE)  # rows are decoded without those after them
PICTURES = (JPEG, *JPEG_2000, *JPEG_XL, *WEBP, LERC, PNG)  # each strip or tile is one of another format
READ = (*IN_PARTS, LZW, PACKBITS, LZMA, *ZSTD, *CCITT, *PICTURES)

_REVERSED = np.array([int(f"{byte:08b}"[::-1], 2) for byte in range(256)], dtype=np.uint8)


def decode_rows(file: BinaryIO, page: Page, index: int, rows: int, first: int, last: int) -> np.ndarray:
    """Return some rows of a strip or tile.

    Args:
        file: The TIFF.
        page: Whose strip or tile it is.
        index: Its number.
        rows: That it has in the file.
        first: First row that is wanted.
        last: The row behind the last; where the compression is none of `IN_PARTS`, all before it are decoded, too.

    Returns:
        In the type of the page, shape ``(last - first, c, s)``.

    Raises:
        Exception: Of the codec, if the data are damaged.
    """
    columns, samples = page.segment[1], page.bands_at_once
    if page.compression in PICTURES:
        return _picture(_stored(file, page, index), page, rows)[first:last]
    stride = page.row_bytes(columns)
    data = _row_bytes(file, page, index, rows, first * stride, last * stride)
    missing = (last - first) * stride - len(data)
    if missing > 0:
        raise DamagedTiffError(f"the file is truncated ({missing} bytes missing)")
    lines = np.frombuffer(data, dtype=np.uint8).reshape(last - first, stride)
    if page.is_reversed and page.compression not in CCITT:
        lines = _REVERSED[lines]
    return _unpredicted(_samples(lines, page, columns * samples), page, columns, samples)


def _stored(file: BinaryIO, page: Page, index: int) -> bytes:
    """Return the bytes of a strip or tile as they lie in the file, no more than it can need."""
    room = page.segment[0] * page.row_bytes(page.segment[1])
    size = min(int(page.sizes[index]), 2 * room + (1 << 16))
    file.seek(int(page.offsets[index]))
    return file.read(size)


def _row_bytes(file: BinaryIO, page: Page, index: int, rows: int, start: int, end: int) -> bytes:
    """Return the bytes `start` to `end` of a strip or tile, fewer where it ends before."""
    if page.compression == NONE:
        file.seek(int(page.offsets[index]) + start)
        return file.read(end - start)
    if page.compression in DEFLATE:
        room = page.segment[0] * page.row_bytes(page.segment[1])
        return inflate(file, int(page.offsets[index]), int(page.sizes[index]), start, end, room)
    data = _stored(file, page, index)
    if page.is_reversed and page.compression in CCITT:
        data = _REVERSED[np.frombuffer(data, dtype=np.uint8)].tobytes()
    return bytes(_decompressed(data, page, rows, end)[start:end])


def _decompressed(data: bytes, page: Page, rows: int, end: int) -> Any:
    import imagecodecs  # here: it takes long to be imported

    if page.compression == LZW:
        return imagecodecs.lzw_decode(data, out=end)
    if page.compression == PACKBITS:
        return unpack_bits(data, end)
    if page.compression == LZMA:
        return imagecodecs.lzma_decode(data, out=end)
    if page.compression in ZSTD:
        return imagecodecs.zstd_decode(data, out=rows * page.row_bytes(page.segment[1]))
    columns = page.segment[1]
    if page.compression == 2:
        pixels = imagecodecs.ccittrle_decode(data, rows, columns)
    elif page.compression == 3:
        pixels = imagecodecs.ccittfax3_decode(data, rows, columns, t4options=page.fax)
    else:
        pixels = imagecodecs.ccittfax4_decode(data, rows, columns)
    return np.packbits(np.asarray(pixels).reshape(-1, columns) != 0, axis=1).tobytes()


def unpack_bits(data: bytes, most: int) -> bytes:
    r"""Return what PackBits stands for, no more than a number of bytes.

    Example:
        >>> unpack_bits(bytes([254, 7, 1, 1, 2, 128]), 9), unpack_bits(bytes([129, 7]), 4)
        (b'\x07\x07\x07\x01\x02', b'\x07\x07\x07\x07')

    References:
        TIFF 6.0, section 9.
    """
    found, place = bytearray(), 0
    while place < len(data) and len(found) < most:
        length = data[place]
        if length < 128:
            found += data[place + 1 : place + 2 + length]
            place += 2 + length
        elif length > 128:
            found += data[place + 1 : place + 2] * (257 - length)
            place += 2
        else:
            place += 1
    return bytes(found[:most])


def _picture(data: bytes, page: Page, rows: int) -> np.ndarray:
    """Return a strip or tile that is a picture of another format, shape ``(r, c, s)``."""
    import imagecodecs

    shape = (rows, page.segment[1], page.bands_at_once)
    if page.compression == JPEG:
        return _jpeg(data, page, shape)
    name = next(
        name
        for name, numbers in (
            ("jpeg2k", JPEG_2000), ("jpegxl", JPEG_XL), ("webp", WEBP), ("lerc", (LERC,)), ("png", (PNG,)),
        )
        if page.compression in numbers
    )  # fmt: skip
    options = {"hasalpha": True} if name == "webp" and shape[2] == 4 else {}
    out = np.empty(shape if shape[2] > 1 else shape[:2], dtype=page.dtype)
    decoded: np.ndarray = getattr(imagecodecs, f"{name}_decode")(data, out=out, **options)
    return decoded.reshape(shape)


def _jpeg(data: bytes, page: Page, shape: tuple[int, int, int]) -> np.ndarray:
    import imagecodecs

    rows, columns, samples = jpeg_shape(data)
    if columns != shape[1] or samples != shape[2] or not shape[0] <= rows <= page.segment[0]:
        raise DamagedTiffError(
            f"a strip or tile of {shape[1]} x {shape[0]} pixels of {shape[2]} samples holds a JPEG of {columns} x {rows} of "
            f"{samples}"
        )
    colours, shown = None, None
    if not page.extra:
        shown = {YCBCR: RGB, RGB: RGB, CMYK: 4}.get(page.photometric)
        colours = RGB if page.photometric == RGB and not page.is_jfif else None
    if page.is_planar:
        shown = 1
    decoded: np.ndarray = imagecodecs.jpeg_decode(
        data, bitspersample=page.bits, tables=page.tables, colorspace=colours, outcolorspace=shown
    )
    return decoded.reshape(rows, columns, samples)[: shape[0]]


def jpeg_shape(data: bytes) -> tuple[int, int, int]:
    """Return rows, columns and samples that the frame of a JPEG says.

    Raises:
        DamagedTiffError: If it says none.
    """
    place = 2
    while place + 9 < len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF or marker == 1 or 0xD0 <= marker <= 0xD8:
            place += 1 if marker == 0xFF else 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            sides = data[place + 5 : place + 10]
            return sides[0] << 8 | sides[1], sides[2] << 8 | sides[3], sides[4]
        else:
            place += 2 + (data[place + 2] << 8 | data[place + 3])
    raise DamagedTiffError("a strip or tile holds no JPEG")


def _samples(lines: np.ndarray, page: Page, count: int) -> np.ndarray:
    """Return rows of bytes as rows of samples, shape ``(r, count)``; differences stay what they are."""
    bits, dtype = page.bits, page.dtype
    if bits == dtype.itemsize * 8:
        return lines.view(dtype if page.predictor == 3 else dtype.newbyteorder(page.order))
    digits = np.unpackbits(lines, axis=1)[:, : count * bits].reshape(len(lines), count, bits)
    samples = np.zeros((len(lines), count), dtype=dtype)
    for digit in range(bits):
        samples = samples << 1 | digits[:, :, digit]
    return samples


def _unpredicted(samples: np.ndarray, page: Page, columns: int, count: int) -> np.ndarray:
    """Return samples from what the predictor has made of them, in the order of the machine's bytes, shape ``(r, c, s)``."""
    shape, dtype = (len(samples), columns, count), page.dtype
    if page.predictor == 3:  # bytes of a row, those of the same weight together, as differences
        planes = samples.view(np.uint8).reshape(len(samples), -1, count)
        planes = np.add.accumulate(planes, axis=1, dtype=np.uint8)
        planes = planes.reshape(len(samples), dtype.itemsize, columns * count)
        whole = np.ascontiguousarray(planes.swapaxes(1, 2)).view(dtype.newbyteorder(">"))
        return whole.reshape(shape).astype(dtype)
    found = samples.astype(dtype, copy=False).reshape(shape)
    if page.predictor == 2:
        whole_numbers = np.dtype(f"u{dtype.itemsize}")
        found = np.add.accumulate(found.view(whole_numbers), axis=1, dtype=whole_numbers).view(dtype)
    return found
