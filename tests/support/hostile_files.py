"""Image files that were damaged on purpose, by seed: cut off, with bytes that are others, with numbers of the header that lie."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

EXTREMES = (0, 1, 2, 255, 256, 4096, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
SMOOTH = np.kron(np.arange(48, dtype=np.uint8).reshape(6, 8) * 5, np.ones((8, 8), dtype=np.uint8))
COLOURS = np.stack([SMOOTH, SMOOTH[::-1], SMOOTH[:, ::-1]], axis=-1)
TIFFS = {
    "strips.tif": {"rowsperstrip": 5},
    "deflate.tif": {"compression": "zlib", "predictor": True, "tile": (16, 16)},
    "lzw.tif": {"compression": "lzw", "rowsperstrip": 7, "byteorder": ">"},
    "zstd.tif": {"compression": "zstd", "tile": (32, 32)},
    "packbits.tif": {"compression": "packbits"},
    "jpeg.tif": {"compression": "jpeg", "tile": (16, 16)},
    "lzma.tif": {"compression": "lzma", "tile": (16, 16)},
    "lerc.tif": {"compression": "lerc", "tile": (16, 16)},
    "webp.tif": {"compression": "webp", "tile": (16, 16)},
    "jpeg 2000.tif": {"compression": "jpeg2000", "tile": (32, 32)},
    "jpeg xl.tif": {"compression": "jpegxl", "tile": (32, 32)},
    "png.tif": {"compression": "png", "tile": (16, 16)},
    "big.tif": {"compression": "zlib", "bigtiff": True, "planarconfig": "separate"},
}
PICTURES = ("a.png", "a.jpg", "a.bmp", "a.webp", "a.gif", "a.jp2", "a.ppm")
FAX = ("group3.tif", "group4.tif", "tiff_ccitt.tif")
FORMATS = (*TIFFS, *FAX, "pyramid.tif", "deep.png", *PICTURES)


def sound_file(folder: Path, name: str) -> Path:
    """Write a file of one of `FORMATS`."""
    path = folder / name
    if name in TIFFS:
        options = dict(TIFFS[name])
        planar = options.get("planarconfig") == "separate"
        samples = np.ascontiguousarray(np.moveaxis(COLOURS, -1, 0)) if planar else COLOURS
        tifffile.imwrite(path, samples, photometric="rgb", metadata=None, **options)
    elif name == "pyramid.tif":
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(
                COLOURS, photometric="rgb", tile=(16, 16), subifds=1, compression="zlib", metadata=None
            )
            tiff.write(COLOURS[::2, ::2], photometric="rgb", tile=(16, 16), subfiletype=1, metadata=None)
            tiff.write(COLOURS, photometric="rgb", metadata=None)
    elif name in FAX:
        Image.fromarray(SMOOTH > 99).save(path, compression=name.removesuffix(".tif"))
    elif name == "deep.png":
        Image.fromarray(SMOOTH.astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(COLOURS).save(path)
    return path


def mutations(data: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Yield damaged files.

    Args:
        data: A sound one.
        seed: Of what is damaged.
        count: How many.
    """
    rng = np.random.default_rng(seed)
    # where numbers of headers lie: at the beginning, and in TIFFs in the directories
    places = [*range(min(64, len(data))), *_directory_bytes(data)]
    for number in range(count):
        damaged = bytearray(data)
        kind = number % 5
        if kind == 0:
            yield data[: int(rng.integers(len(data)))]
            continue
        for _ in range(1 + int(rng.integers(3))):
            place = int(rng.choice(places)) if kind < 4 else int(rng.integers(len(data)))
            value = int(rng.choice(EXTREMES))
            order = rng.choice(["<", ">"])
            if kind in (1, 4):
                damaged[place] = int(rng.integers(256))
            elif kind == 2:
                damaged[place : place + 2] = struct.pack(f"{order}H", value & 0xFFFF)
            else:
                damaged[place : place + 4] = struct.pack(f"{order}I", value)
        yield bytes(damaged[: len(data)])


def _directory_bytes(data: bytes) -> list[int]:
    """Return where the bytes of a TIFF's directories lie, of any other file none."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return []
    is_big = data[2:4] in (b"+\0", b"\0+")
    (offset,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)
    found: list[int] = []
    while offset and len(found) < 1 << 14:
        (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, offset)
        end = offset + (8 + 20 * count if is_big else 2 + 12 * count)
        found += range(offset, end + 4)
        (offset,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, end)
    return found
