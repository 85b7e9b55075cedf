"""Readers of image files from outside, asked before Pillow: by a script (`register_reader`) or by a package (entry points).

The group of entry points is ``ziggurat.readers``, and an entry is an object with the methods of `ImageReader`. Whatever a
reader raises becomes a message that names the file, and an image with too many pixels is refused before it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ziggurat.config.registry import Registry
from ziggurat.data.extents import Extent, Region
from ziggurat.data.readers.opening import SUFFIXES
from ziggurat.errors import UserError


class ImageReader(Protocol):
    """Reads image files of one kind; safe to call from several threads and processes.

    Attributes:
        suffixes: Of its files, in small letters, with the dot; files with them are images in folders and globs, too.
    """

    suffixes: tuple[str, ...]

    def size(self, path: Path) -> Extent:
        """Return an image's rows and columns, without decoding it."""
        ...

    def read(self, path: Path) -> Tensor:
        """Return an image, RGB, uint8, shape ``(3, H, W)``."""
        ...

    def window(self, path: Path, region: Region) -> Tensor | None:
        """Return a region of an image, shape ``(3, *region.size)``; None if it cannot be read in parts."""
        ...


READERS: Registry[ImageReader] = Registry("image reader", "ziggurat.readers")


def register_reader(name: str, reader: ImageReader) -> ImageReader:
    """Give a reader a name in `READERS`.

    Raises:
        UserError: If another reader has the name.
    """
    return READERS.register(name, reader)


def reader_of(path: Path) -> ImageReader | None:
    """Return the reader from outside of a file, by its suffix; None leaves it to Pillow."""
    name = path.name.lower()
    return next((reader for reader in READERS.values() if name.endswith(tuple(reader.suffixes))), None)


def image_suffixes() -> tuple[str, ...]:
    """Return the suffixes of image files, in small letters."""
    return (*SUFFIXES, *(suffix for reader in READERS.values() for suffix in reader.suffixes))


def checked_size(reader: ImageReader, path: Path, max_pixels: int) -> tuple[int, int]:
    """Return an image's rows and columns.

    Raises:
        UserError: If there is no such image, it cannot be read, or it has more than `max_pixels` pixels.
    """
    with naming(path):
        rows, columns = reader.size(path)
    if rows * columns > max_pixels:
        raise UserError(
            f"the image {path} has {columns} x {rows} pixels, more than data.max_pixels={max_pixels}: raise it, or leave "
            "the image out"
        )
    return rows, columns


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let whatever a reader raises in the body name the file.

    Raises:
        UserError: If the body raises anything.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no image {path}: give the path of a file that is there") from None
    except Exception as error:  # readers raise almost anything for broken files
        raise UserError(f"cannot decode the image {path}: {error}") from error
