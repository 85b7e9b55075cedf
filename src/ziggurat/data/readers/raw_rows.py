"""Rows of BMP, PPM and PGM files, whose pixels lie in the file as they are: read without the rest of the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ziggurat.data.extents import Region

# Of each of Pillow's modes and raw modes: where each band lies among the bytes of a pixel.
_PLACES = {
    ("L", "L"): (0,), ("RGB", "RGB"): (0, 1, 2), ("RGB", "BGR"): (2, 1, 0), ("RGB", "RGBX"): (0, 1, 2),
    ("RGB", "BGRX"): (2, 1, 0), ("RGBA", "RGBA"): (0, 1, 2, 3), ("RGBA", "BGRA"): (2, 1, 0, 3),
}  # fmt: skip


@dataclass(frozen=True)
class RawRows:
    """Where the rows of an image lie in its file.

    Attributes:
        rows: Of the image.
        offset: First byte.
        stride: Bytes from row to row.
        width: Bytes of a pixel.
        places: Of each band among them.
        is_bottom_up: Whether the last row is the first in the file.
    """

    rows: int
    offset: int
    stride: int
    width: int
    places: tuple[int, ...]
    is_bottom_up: bool

    def read(self, path: Path, region: Region) -> np.ndarray:
        """Return the samples of a region, uint8, shape ``(C, *region.size)``.

        Raises:
            OSError: If the file ends before.
        """
        (first, left), (last, right) = region.start, region.end
        if self.is_bottom_up:
            first, last = self.rows - last, self.rows - first
        with path.open("rb") as file:
            file.seek(self.offset + first * self.stride)
            data = file.read((last - first) * self.stride)
        # the last row of a file need not be filled up to the stride
        missing = (last - first - 1) * self.stride + right * self.width - len(data) if region.volume else 0
        if missing > 0:
            raise OSError(f"the file is truncated ({missing} bytes missing)")
        lines = np.zeros((last - first) * self.stride, dtype=np.uint8)
        lines[: len(data)] = np.frombuffer(data, dtype=np.uint8)
        pixels = lines.reshape(last - first, self.stride)[:, left * self.width : right * self.width]
        pixels = pixels.reshape(last - first, right - left, self.width)[:, :, list(self.places)]
        return np.ascontiguousarray(np.moveaxis(pixels[::-1] if self.is_bottom_up else pixels, -1, 0))


def raw_rows_of(image: Any) -> RawRows | None:
    """Return where the rows of an opened image of Pillow's lie; None if they have to be decoded."""
    if image.format not in ("BMP", "DIB", "PPM") or len(image.tile) != 1:
        return None
    codec, box, offset, given = image.tile[0]
    arguments = (given,) if isinstance(given, str) else tuple(given)
    raw_mode, stride, step = (*arguments, 0, 1)[:3] if len(arguments) < 3 else arguments[:3]
    places = _PLACES.get((image.mode, raw_mode))
    if codec != "raw" or places is None or tuple(box) != (0, 0, *image.size):
        return None
    width = len(raw_mode)
    return RawRows(image.height, offset, stride or image.width * width, width, places, step == -1)
