"""Writes TIFFs of every layout from arrays, tag by tag: what a reader gives is compared with the array."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

FORMATS = {"u": 1, "i": 2, "f": 3, "c": 6}
GREY, RGB, PALETTE, CMYK = 1, 2, 3, 5
NONE, DEFLATE, PACKBITS = 1, 8, 32773


def write_tiff(
    path: Path,
    *pages: np.ndarray,
    photometric: int = 0,
    planar: bool = False,
    extra: tuple[int, ...] | None = None,
    compression: int = NONE,
    order: str = "<",
    tile: int = 0,
    rows_per_strip: int = 0,
    bits: int = 0,
    tags: dict[int, object] | None = None,
    subfiles: tuple[int, ...] = (),
) -> Path:
    """Write pages of samples, ``(H, W)`` or ``(H, W, bands)``.

    Args:
        path: The file.
        pages: The samples of each.
        photometric: What they mean; 0 stands for the natural one: grey, or RGB from three bands on.
        planar: Whether each band lies by itself.
        extra: What bands beside colour mean (0 nothing, 1 and 2 transparency); None leaves the tag away.
        compression: Of strips and tiles.
        order: Of bytes.
        tile: Rows and columns of a tile, a multiple of 16; 0 writes strips.
        rows_per_strip: 0 writes one strip.
        bits: Of a sample, where it is not its type's: 1, 2, 4 or 12.
        tags: Further ones: numbers or text.
        subfiles: Of each page, what it is (tag 254).
    """
    out = bytearray(b"II*\0\0\0\0\0" if order == "<" else b"MM\0*\0\0\0\0")
    link = 4
    for number, page in enumerate(pages):
        samples = page[:, :, None] if page.ndim == 2 else page
        rows, columns, bands = samples.shape
        offsets, sizes = [], []
        for chunk in _chunks(samples, planar, tile, rows_per_strip or rows):
            data = _compressed(_packed(chunk, bits, order), compression, chunk)
            offsets.append(len(out))
            sizes.append(len(data))
            out += data + b"\0" * (len(data) % 2)
        meaning = photometric or (RGB if bands >= 3 else GREY)
        entries: dict[int, object] = {
            256: columns, 257: rows, 258: (bits or samples.dtype.itemsize * 8,) * bands, 259: compression,
            262: 0 if meaning == -1 else meaning, 277: bands, 284: 2 if planar else 1,
            339: (FORMATS[samples.dtype.kind],) * bands,
        }  # fmt: skip
        if tile:
            entries |= {322: tile, 323: tile, 324: tuple(offsets), 325: tuple(sizes)}
        else:
            entries |= {273: tuple(offsets), 278: rows_per_strip or rows, 279: tuple(sizes)}
        if extra is not None:
            entries[338] = extra
        if subfiles:
            entries[254] = subfiles[number]
        here = _write_entries(out, entries | (tags or {}), order)
        out[link : link + 4] = struct.pack(order + "I", here)
        link = len(out) - 4
    path.write_bytes(out)
    return path


def _chunks(samples: np.ndarray, planar: bool, tile: int, rows_per_strip: int) -> list[np.ndarray]:
    planes = np.split(samples, samples.shape[2], axis=2) if planar else [samples]
    chunks = []
    for plane in planes:
        rows, columns, bands = plane.shape
        if not tile:
            chunks += [plane[start : start + rows_per_strip] for start in range(0, rows, rows_per_strip)]
            continue
        padded = np.zeros((-(-rows // tile) * tile, -(-columns // tile) * tile, bands), dtype=plane.dtype)
        padded[:rows, :columns] = plane
        chunks += [
            padded[y : y + tile, x : x + tile] for y in range(0, rows, tile) for x in range(0, columns, tile)
        ]
    return chunks


def _packed(chunk: np.ndarray, bits: int, order: str) -> bytes:
    """Return samples as bytes; those of a row are packed where they are no whole bytes."""
    if not bits:
        return chunk.astype(chunk.dtype.newbyteorder(order)).tobytes()
    flat = chunk.reshape(len(chunk), -1).astype(np.uint16)
    digits = (flat[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.reshape(len(chunk), -1).astype(np.uint8), axis=1).tobytes()


def _compressed(data: bytes, compression: int, chunk: np.ndarray) -> bytes:
    if compression == DEFLATE:
        return zlib.compress(data)
    if compression == PACKBITS:  # literal runs only, row by row
        step = len(data) // len(chunk)
        rows = [data[start : start + step] for start in range(0, len(data), step)]
        return b"".join(
            bytes([len(row[i : i + 128]) - 1]) + row[i : i + 128]
            for row in rows
            for i in range(0, len(row), 128)
        )
    return data


def _write_entries(out: bytearray, entries: dict[int, object], order: str) -> int:
    """Append a directory, and what does not fit into its entries; return where it is."""
    packed = []
    for tag, value in sorted(entries.items()):
        if isinstance(value, str):
            kind, count, data = 2, len(value) + 1, value.encode() + b"\0"
        else:
            numbers = value if isinstance(value, tuple) else (value,)
            kind = 4 if max(numbers) > 65535 else 3
            count, data = (
                len(numbers),
                struct.pack(f"{order}{len(numbers)}{'I' if kind == 4 else 'H'}", *numbers),
            )
        if len(data) > 4:
            where = len(out)
            out += data + b"\0" * (len(data) % 2)
            data = struct.pack(order + "I", where)
        packed.append(struct.pack(order + "HHI", tag, kind, count) + data.ljust(4, b"\0"))
    here = len(out)
    out += struct.pack(order + "H", len(packed)) + b"".join(packed) + b"\0\0\0\0"
    return here
