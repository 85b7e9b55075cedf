"""Every reader of image files by its name: which one takes a file, and opening it.

Readers from outside, of a script (`register_reader`) or of a package (the group of entry points ``ziggurat.readers``, of
objects that are an `ImageReader`), are asked first; then those of the house in a fixed order, each of which takes what it is for and leaves the
rest to those after it. Whatever a reader raises becomes a message that names the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ziggurat.config.registry import Registry
from ziggurat.data.readers.gdal import GdalReader
from ziggurat.data.readers.naming import naming
from ziggurat.data.readers.opened import ImageReader, OpenedImage
from ziggurat.data.readers.opening import SUFFIXES
from ziggurat.data.readers.pages import split_page, without_page
from ziggurat.data.readers.pillow import PillowReader
from ziggurat.data.readers.slides import SlideReader
from ziggurat.data.readers.tiff.reader import TiffReader
from ziggurat.data.readers.zarr_arrays import ZarrReader

HEAD_BYTES = 64  # of a file, by which readers recognise it

# Asked from the first to the last: slides and folders by their names, TIFF by its own library, what only GDAL reads, and the rest.
HOUSE: tuple[tuple[str, ImageReader], ...] = (
    ("slides", SlideReader()),
    ("zarr", ZarrReader()),
    ("tiff", TiffReader()),
    ("gdal", GdalReader()),
    ("pillow", PillowReader()),
)

READERS: Registry[ImageReader] = Registry("image reader", "ziggurat.readers")
for _name, _reader in HOUSE:
    READERS.register(_name, _reader)


def register_reader(name: str, reader: ImageReader) -> ImageReader:
    """Give a reader a name in `READERS`.

    Raises:
        UserError: If another reader has the name.
    """
    return READERS.register(name, reader)


def readers_from_outside() -> list[ImageReader]:
    """Return the readers that are not the house's, in the order in which they were registered."""
    of_house = dict(HOUSE)
    return [reader for name, reader in READERS.items() if name not in of_house]


def reader_of(path: Path) -> ImageReader | None:
    """Return the reader that recognises a file; None where none does.

    Raises:
        FileNotFoundError: If it is not there.
    """
    head = b""
    if not path.is_dir():
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    readers = (*readers_from_outside(), *(reader for _, reader in HOUSE))
    return next((reader for reader in readers if reader.recognises(path, head)), None)


def image_suffixes() -> tuple[str, ...]:
    """Return the suffixes of image files, in small letters."""
    others = (suffix for reader in READERS.values() for suffix in reader.suffixes)
    return tuple(dict.fromkeys((*SUFFIXES, *others)))


def is_image_folder(path: Path) -> bool:
    """Whether a path is a folder that some reader takes for an image."""
    return path.is_dir() and reader_of(path) is not None


def has_image_suffix(name: str) -> bool:
    """Whether a file's name, or that of a page of it, ends as image files' do."""
    return without_page(name).lower().endswith(image_suffixes())


@contextmanager
def open_image_file(path: Path) -> Iterator[OpenedImage]:
    """Open an image, or a page of it (``stack.tif#3``), for the body.

    Raises:
        UserError: If there is no such image or page, or the body cannot read it.
    """
    with naming(path):
        file, page = split_page(path)
        reader = reader_of(file)
        if reader is None:
            raise ValueError(
                "it is empty or of no known format (PNG, JPEG, TIFF, BMP, WebP, GIF, JPEG 2000, PPM)"
            )
        with reader.open(file, page) as image:
            yield image
