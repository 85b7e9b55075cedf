"""The tags of a TIFF's pages, of files whose pixels nobody here can decode, too."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.TiffImagePlugin import ImageFileDirectory_v2

# Tags of TIFF 6.0, and GDAL's.
SUBFILE, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION, SAMPLES = 254, 258, 259, 262, 270, 277
PLANAR, EXTRA_SAMPLES, SAMPLE_FORMAT, GDAL_NODATA = 284, 338, 339, 42113
NO_PICTURE = 1 | 4  # of SUBFILE: a smaller copy of another page, a mask of one
MOST_PAGES = 1 << 16

_IMAGEJ = re.compile(r"ImageJ=.*?^images=(\d+)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class TiffTags:
    """What the tags of a TIFF say.

    Attributes:
        first: The tags of the first page.
        pages: Pages that are pictures of their own.
        is_big_endian: Whether the bytes of a number begin with the largest.
    """

    first: dict[int, Any]
    pages: int
    is_big_endian: bool

    def value(self, tag: int, default: int) -> int:
        """Return a number."""
        found = self.first.get(tag, default)
        return int(found[0] if isinstance(found, tuple) else found)

    def values(self, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return numbers."""
        found = self.first.get(tag, default)
        return tuple(found) if isinstance(found, tuple) else (int(found),)

    @property
    def nodata(self) -> float | None:
        """The value of pixels that hold nothing, as GDAL writes it."""
        try:
            return float(str(self.first[GDAL_NODATA]).strip(" \0"))
        except (KeyError, ValueError):
            return None


def read_tags(path: Path) -> TiffTags:
    """Read the tags of the first page, and count the pages.

    Raises:
        Exception: Almost any, if the file is no TIFF or is broken.
    """
    with path.open("rb") as file:
        head = file.read(8)
        if 43 in head[2:4]:  # BigTIFF
            head += file.read(8)
        offset = ImageFileDirectory_v2(head).next
        first: dict[int, Any] = {}
        pages, seen = 0, set[int]()
        while offset and offset not in seen and len(seen) < MOST_PAGES:
            seen.add(offset)
            directory = ImageFileDirectory_v2(head)
            file.seek(offset)
            directory.load(file)
            if not first:
                first = {tag: directory[tag] for tag in directory if tag in _KNOWN}
            pages += not int(directory.get(SUBFILE, 0)) & NO_PICTURE
            offset = directory.next
    found = _IMAGEJ.search(str(first.get(DESCRIPTION, "")))  # it writes one page's tags for a large stack
    return TiffTags(first, max(pages, int(found[1]) if found else 1), head.startswith(b"MM"))


_KNOWN = frozenset({BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION, SAMPLES, PLANAR, EXTRA_SAMPLES, SAMPLE_FORMAT, GDAL_NODATA})  # fmt: skip
