"""Writing a PNG of indices into a palette row by row: Pillow needs the whole image in memory.

References:
    Portable Network Graphics (PNG) Specification, third edition, sections 5 and 11. https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ziggurat.data.extents import Extent
from ziggurat.visualize.colors import Color

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_INDEXED, _UP = 3, 2  # a type of colour; a filter: each byte is the difference to the one above


class PaletteImage:
    """A PNG file whose rows are written as they come.

    Args:
        path: The file.
        extent: Rows and columns.
        palette: The colour of each index, at most 256.
    """

    def __init__(self, path: Path, extent: Extent, palette: Sequence[Color]) -> None:
        height, width = extent
        self._above = np.zeros((1, width), dtype=np.uint8)
        self._packer = zlib.compressobj(6)
        self._file = path.open("wb")
        self._file.write(_SIGNATURE)
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _INDEXED, 0, 0, 0))
        self._chunk(b"PLTE", bytes(part for color in palette for part in color))

    def add(self, rows: np.ndarray) -> None:
        """Write the next rows, uint8, shape ``(rows, width)``."""
        lines = np.full((len(rows), rows.shape[1] + 1), _UP, dtype=np.uint8)
        lines[:, 1:] = np.diff(rows, axis=0, prepend=self._above)  # in eight bits, as the filter computes
        self._above = rows[-1:].copy()
        packed = self._packer.compress(lines.tobytes())
        if packed:
            self._chunk(b"IDAT", packed)

    def _chunk(self, kind: bytes, content: bytes) -> None:
        self._file.write(struct.pack(">I", len(content)) + kind + content)
        self._file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._chunk(b"IDAT", self._packer.flush())
            self._chunk(b"IEND", b"")
        self._file.close()
