"""What the header of an image file says, whatever reads it, with its place on the ground where GDAL alone knows that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from ziggurat.data.readers.gdal import TIFF_HEADS, GdalReader
from ziggurat.data.readers.opened import ImageInfo, OpenedImage
from ziggurat.data.readers.pages import split_page
from ziggurat.data.readers.registry import open_image_file


def info_of(path: Path) -> ImageInfo:
    """Return what the header of an image file says.

    Raises:
        UserError: If the header cannot be read.
    """
    with open_placed(path) as image:
        return image.info


@contextmanager
def open_placed(path: Path) -> Iterator[OpenedImage]:
    """Open an image file for the body by what knows its place.

    A TIFF may tell its CRS by parameters, which only GDAL puts together: it is asked where the file's reader does not know the place.

    Raises:
        UserError: If the header cannot be read.
    """
    with open_image_file(path) as image:
        place = image.info.georeference
        file, page = split_page(path)
        if (place is not None and place.crs) or not _may_ask_gdal(file, page):
            yield image
            return
        with GdalReader().open(file, None) as other:
            yield image if other.info.georeference is None else other


def _may_ask_gdal(path: Path, page: int | None) -> bool:
    """Whether a file is a TIFF, of which no later page is meant, and GDAL is there."""
    if page or path.is_dir() or find_spec("rasterio") is None:
        return False
    with path.open("rb") as file:
        return file.read(4) in TIFF_HEADS
