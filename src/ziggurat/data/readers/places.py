"""What the header of an image file says, whatever reads it, with its place on the ground where GDAL alone knows that."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ziggurat.data.readers.gdal import TIFF_HEADS, GdalReader
from ziggurat.data.readers.opened import ImageInfo
from ziggurat.data.readers.pages import split_page
from ziggurat.data.readers.registry import open_image_file


def info_of(path: Path) -> ImageInfo:
    """Return what the header of an image file says.

    A TIFF may tell its CRS by parameters, which only GDAL puts together: it is asked where the file's reader does not know the place.

    Raises:
        UserError: If the header cannot be read.
    """
    with open_image_file(path) as image:
        info = image.info
    if info.georeference is not None and info.georeference.crs:
        return info
    file, page = split_page(path)
    if not page and find_spec("rasterio") is not None and _is_tiff(file):
        with GdalReader().open(file, None) as raster:
            return raster.info if raster.info.georeference is not None else info
    return info


def _is_tiff(path: Path) -> bool:
    if path.is_dir():
        return False
    with path.open("rb") as file:
        return file.read(4) in TIFF_HEADS
