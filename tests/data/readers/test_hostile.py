"""Damaged files give pixels or one message, in bounded memory and time."""

from __future__ import annotations

import os
import resource
import signal
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from support.hostile_files import FORMATS, mutations, sound_file
from ziggurat.data.extents import Region
from ziggurat.data.readers.images import image_size, inspect_image, read_image, read_window
from ziggurat.data.readers.layout import Reading
from ziggurat.data.readers.registry import READERS
from ziggurat.data.readers.sample_range import SampleRange
from ziggurat.errors import UserError

MAX_PIXELS = 1 << 18
READING = Reading(SampleRange(0, 1000), extra="drop")
SPARE_BYTES = 1 << 28  # of address space beside what the child has at its start
SECONDS = 20  # for one file: a decoder that does not end is killed


def read_all(path: Path) -> int:
    """Read a file in every way; return how many ways gave pixels.

    Raises:
        AssertionError: If anything but pixels or a message comes of it.
    """
    ways = 0
    for read in (
        lambda: inspect_image(path, MAX_PIXELS, READING),
        lambda: read_image(path, MAX_PIXELS, READING),
        lambda: read_window(path, MAX_PIXELS, image_size(path, MAX_PIXELS), Region((0, 0), (1, 1)), READING),
    ):
        try:
            ways += isinstance(read(), torch.Tensor)
        except UserError as error:
            said = str(error)
            if str(path) not in said:
                raise AssertionError(f"no message about the file: {said}") from error
    return ways


def in_child(folder: Path, read: Callable[[Path], str]) -> str:
    """Call a function in a forked child whose memory is bounded; return what it has to say.

    Args:
        folder: For files.
        read: Takes a file in which it may say where it is.
    """
    report, place = folder / "report", folder / "place"
    place.write_text("the beginning")
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = pages * os.sysconf("SC_PAGE_SIZE") + SPARE_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            report.write_text(read(place))
            status = 0
        except BaseException as error:  # noqa: BLE001 - the parent says it
            report.write_text(f"{place.read_text()}: {type(error).__name__}: {error}")
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    said = report.read_text() if report.exists() else f"killed at {place.read_text()}"
    assert status == 0, said
    return said


def most_resident() -> int:
    """Return the most KiB that were resident; a forked child counts from what it began with."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured(path: Path) -> tuple[int, int]:
    """Read a file in every way; return how many gave pixels, and how many KiB that took."""

    def read(place: Path) -> str:
        before = most_resident()
        signal.alarm(SECONDS)
        return f"{read_all(path)} {most_resident() - before}"

    ways, grown = map(int, in_child(path.parent, read).split())
    return ways, grown


def _read_mutations(folder: Path, names: tuple[str, ...], count: int, place: Path) -> str:
    read = refused = 0
    before = most_resident()
    for seed, name in enumerate(names):
        data = sound_file(folder, name).read_bytes()
        for number, damaged in enumerate(mutations(data, seed, count)):
            path = folder / f"damaged{Path(name).suffix}"
            path.write_bytes(damaged)
            place.write_text(f"{name} {number}")
            READERS["tiff"].forget()  # files that follow each other at once may look the same
            signal.alarm(SECONDS)
            ways = read_all(path)
            signal.alarm(0)
            read, refused = read + bool(ways), refused + (not ways)
    grown = most_resident() - before
    return f"{read} read, {refused} refused, {grown >> 10} MiB more at most"


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_damaged_files_give_pixels_or_one_message(tmp_path: Path, count: int) -> None:
    for name in FORMATS:  # what libraries load once is no matter of a file
        read_all(sound_file(tmp_path, name))
    said = in_child(tmp_path, lambda place: _read_mutations(tmp_path, FORMATS, count, place))
    print(f"{len(FORMATS)} formats, {count} mutations of each: {said}")
    assert int(said.split(", ")[1].split()[0]) > count, "many are damaged beyond reading"


def spliced(tmp_path: Path, tag: int, value: int, **options: object) -> Path:
    """Write a TIFF of which a tag says another number."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64), dtype=np.uint8), metadata=None, **options)
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages[0].tags[tag]
        place, code = found.valueoffset, {3: "<H", 4: "<I"}[int(found.dtype)]
    data = bytearray(path.read_bytes())
    struct.pack_into(code, data, place, value)
    path.write_bytes(data)
    return path


LIES = {
    "columns": (256, 1 << 31),
    "rows": (257, 1 << 31),
    "bits": (258, 7000),
    "samples": (277, 60000),
    "rows of a strip": (278, (1 << 32) - 1),
    "place": (273, (1 << 32) - 1),
    "bytes": (279, (1 << 32) - 1),
}


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie(tmp_path: Path, lie: str, compression: str | None) -> None:
    tag, value = LIES[lie]
    path = spliced(tmp_path, tag, value, compression=compression)
    ways, grown = measured(path)
    assert grown < 1 << 15, "KiB"
    # a strip that ends before its bytes do, and has no more rows than the image, does no harm; LZW's is read as a whole only
    assert ways == ((1 if compression == "lzw" else 2) if lie in ("rows of a strip", "bytes") else 0)


@pytest.mark.parametrize("next_one", ["itself", "the first"])
def test_directories_that_form_a_loop(tmp_path: Path, next_one: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((3, 16, 16), dtype=np.uint8), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        first, last = tiff.pages[0].offset, tiff.pages[-1].offset
    data = bytearray(path.read_bytes())
    (count,) = struct.unpack_from("<H", data, last)
    struct.pack_into("<I", data, last + 2 + 12 * count, last if next_one == "itself" else first)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.tif.*directories form a loop"):
        inspect_image(path, MAX_PIXELS, READING)


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "lzma", "packbits"])
def test_what_inflates_further_than_its_pixels(tmp_path: Path, compression: str) -> None:
    """16 MiB in a strip of 64 x 64 pixels."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        np.zeros((1 << 12, 1 << 12), dtype=np.uint8),
        compression=compression,
        rowsperstrip=1 << 12,
        metadata=None,
    )
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        for tag, value in ((256, 64), (257, 64), (278, 64)):
            found = tiff.pages[0].tags[tag]
            struct.pack_into({3: "<H", 4: "<I"}[int(found.dtype)], data, found.valueoffset, value)
    path.write_bytes(data)
    ways, grown = measured(path)
    assert grown < 1 << 13, "KiB"
    assert ways == (0 if compression in ("zlib", "zstd") else 1)


def test_a_png_that_inflates_further_than_its_pixels(tmp_path: Path) -> None:
    lines = zlib.compress(bytes(1 << 24), 9)
    head = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", head), (b"IDAT", lines), (b"IEND", b""))
    )
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    _, grown = measured(path)
    assert grown < 1 << 13, "KiB"
