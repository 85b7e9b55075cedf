"""Pieces that are damaged are refused wherever the damage lies: their checksum is read on for."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import tifffile

from ziggurat.data.extents import Region
from ziggurat.data.readers.images import read_window
from ziggurat.data.readers.inflating import inflate
from ziggurat.errors import UserError

DATA = np.random.default_rng(0).integers(0, 40, 50_000).astype(np.uint8).tobytes()


@pytest.mark.parametrize(("start", "end"), [(0, 50_000), (10, 2_000), (49_000, 50_000), (7, 7)])
def test_any_bytes_of_a_sound_piece(start, end):
    piece = zlib.compress(DATA)
    assert inflate(io.BytesIO(b"xx" + piece + b"yy"), 2, len(piece), start, end, len(DATA)) == DATA[start:end]


def test_a_piece_that_holds_too_much_is_refused():
    piece = zlib.compress(DATA + b"more")
    with pytest.raises(zlib.error, match="more than its 50000 bytes"):
        inflate(io.BytesIO(piece), 0, len(piece), 0, 2_000, len(DATA))


@pytest.mark.parametrize("end", [1_000, 50_000])
def test_no_damage_gives_other_bytes(end):
    piece, rng = zlib.compress(DATA), np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        damaged = bytearray(piece)
        place, length = int(rng.integers(2, len(piece))), int(rng.integers(1, 40))
        damaged[place : place + length] = rng.bytes(len(damaged[place : place + length]))
        try:
            found = inflate(io.BytesIO(bytes(damaged)), 0, len(damaged), 0, end, len(DATA))
        except zlib.error:
            refused += 1
            continue
        assert found == DATA[: len(found)], "other bytes, silently"
    assert refused > 290


def test_a_window_of_a_damaged_tile_is_refused_wherever_the_damage_lies(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 40, (128, 128, 3)).astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, tile=(64, 64), compression="zlib", photometric="rgb", metadata=None)
    with tifffile.TiffFile(path) as file:
        offset, size = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    data = bytearray(path.read_bytes())
    data[offset + size - 60 : offset + size - 20] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        read_window(path, 1 << 30, (128, 128), Region((0, 0), (8, 8)))
