"""The directories of a TIFF: where each picture of the file is said to lie, before any of it is believed.

A file is walked through once: directories that lead back to one before, too many of them, and tags that claim more values than any
image needs, are refused here, so that what reads the tags afterwards reads few bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

MOST_DIRECTORIES = 1 << 16
MOST_ENTRIES = 1 << 12
MOST_NUMBER_BYTES = 1 << 24  # of the numbers of one tag: the places of two million tiles
MOST_BYTES = 1 << 26  # of one tag that is not numbers
REDUCED, MASK = 1, 4  # bits of NewSubfileType
NEW_SUBFILE, OLD_SUBFILE, SUB_DIRECTORIES = 254, 255, 330

_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_FORMATS = {3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}


class DamagedTiffError(ValueError):
    """What a TIFF says of itself cannot be, or nobody here can read."""


def cannot_be_read(what: str) -> DamagedTiffError:
    """Return the error of a sound file that nobody here can read, with the remedy.

    Example:
        >>> cannot_be_read("it has complex samples")
        DamagedTiffError("it has complex samples, which cannot be read; convert it, such as by 'gdal_translate -ot Byte IN OUT'")
    """
    return DamagedTiffError(
        f"{what}, which cannot be read; convert it, such as by 'gdal_translate -ot Byte IN OUT'"
    )


@dataclass(frozen=True)
class Directory:
    """One picture of a file.

    Attributes:
        offset: Where its tags lie.
        is_reduced: Whether it is a smaller copy of another one.
        is_mask: Whether it is a mask of another one.
        inner: Where the tags of pictures in it lie (SubIFDs).
    """

    offset: int
    is_reduced: bool
    is_mask: bool
    inner: tuple[int, ...]


@dataclass(frozen=True)
class _Form:
    """How numbers are written in a file."""

    order: str
    is_big: bool

    def read(self, file: BinaryIO, code: str) -> int:
        """Read a number."""
        size = struct.calcsize(code)
        data = file.read(size)
        if len(data) < size:
            raise DamagedTiffError("the file ends within its directories")
        return int(struct.unpack(self.order + code, data)[0])

    @property
    def offset(self) -> str:
        """The code of an offset."""
        return "Q" if self.is_big else "I"


def find_directories(file: BinaryIO) -> list[Directory]:
    """Return the directories of a file in their order, and walk through those in them.

    Args:
        file: The file, at any place.

    Raises:
        DamagedTiffError: If it is no TIFF, its directories form a loop, or a tag claims what cannot be.
    """
    form, offset = _read_head(file)
    found: list[Directory] = []
    seen: set[int] = set()
    while offset:
        directory, offset = _read_directory(file, form, offset, seen)
        found.append(directory)
    if not found:
        raise DamagedTiffError("the file holds no picture")
    for directory in list(found):
        for inner in directory.inner:  # those in them are no pages; they are only looked at
            if inner not in seen:
                _read_directory(file, form, inner, seen)
    return found


def inner_reduced(file: BinaryIO, directory: Directory) -> list[int]:
    """Return where the smaller copies in a directory lie."""
    form, _ = _read_head(file)
    seen: set[int] = set()
    found = [_read_directory(file, form, offset, seen)[0] for offset in dict.fromkeys(directory.inner)]
    return [one.offset for one in found if one.is_reduced and not one.is_mask]


def _read_head(file: BinaryIO) -> tuple[_Form, int]:
    file.seek(0)
    head = file.read(4)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 4:
        raise DamagedTiffError("the file does not begin as a TIFF")
    (version,) = struct.unpack(order + "H", head[2:])
    form = _Form(order, version == 43)
    if version == 43 and (form.read(file, "H"), form.read(file, "H")) != (8, 0):
        raise DamagedTiffError("the file does not begin as a BigTIFF")
    if version not in (42, 43):
        raise DamagedTiffError("the file does not begin as a TIFF")
    return form, form.read(file, form.offset)


def _read_directory(file: BinaryIO, form: _Form, offset: int, seen: set[int]) -> tuple[Directory, int]:
    """Return a directory, and where the next one lies."""
    if offset in seen:
        raise DamagedTiffError(f"its directories form a loop at byte {offset}")
    seen.add(offset)
    if len(seen) > MOST_DIRECTORIES:
        raise DamagedTiffError(f"it has more than {MOST_DIRECTORIES} directories")
    file.seek(offset)
    count = form.read(file, "Q" if form.is_big else "H")
    if not 0 < count <= MOST_ENTRIES:
        raise DamagedTiffError(f"a directory at byte {offset} is said to have {count} tags")
    width = 20 if form.is_big else 12
    entries = file.read(count * width)
    if len(entries) < count * width:
        raise DamagedTiffError("the file ends within its directories")
    after = form.read(file, form.offset)
    flags, inner = 0, tuple[int, ...]()
    for start in range(0, len(entries), width):
        tag, kind, number = struct.unpack_from(f"{form.order}HH{form.offset}", entries, start)
        most = MOST_BYTES if _SIZES.get(kind, 1) == 1 else MOST_NUMBER_BYTES
        if number * _SIZES.get(kind, 1) > most:
            raise DamagedTiffError(f"the tag {tag} is said to have {number} values")
        value = entries[start + (12 if form.is_big else 8) : start + width]
        if tag == NEW_SUBFILE and kind in _FORMATS:
            flags |= _numbers(file, form, kind, 1, value)[0]
        elif tag == OLD_SUBFILE and kind in _FORMATS:
            flags |= REDUCED if _numbers(file, form, kind, 1, value)[0] == 2 else 0
        elif tag == SUB_DIRECTORIES and kind in _FORMATS:
            inner = _numbers(file, form, kind, min(number, 64), value)
    return Directory(offset, bool(flags & REDUCED), bool(flags & MASK), inner), after


def _numbers(file: BinaryIO, form: _Form, kind: int, number: int, value: bytes) -> tuple[int, ...]:
    """Return the values of a tag; the place in the file stays."""
    code = f"{form.order}{number}{_FORMATS[kind]}"
    size = struct.calcsize(code)
    if size > len(value):
        here = file.tell()
        file.seek(struct.unpack(form.order + form.offset, value)[0])
        value = file.read(size)
        file.seek(here)
    if len(value) < size:
        raise DamagedTiffError("the file ends within its directories")
    return struct.unpack(code, value[:size])
