"""The image that results are of: what its header says, and its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Region
from ziggurat.data.readers.gdal import TIFF_HEADS, GdalReader
from ziggurat.data.readers.images import reader_for
from ziggurat.data.readers.opened import ImageInfo
from ziggurat.data.readers.pages import split_page
from ziggurat.data.readers.registry import open_by_reader
from ziggurat.data.readers.windows import ReadsWindows
from ziggurat.inference.asked import path_of
from ziggurat.inference.reading import Images


@dataclass(frozen=True)
class ImageSource:
    """An image of those that a prediction is asked for.

    Attributes:
        images: Whose it is.
        index: Its number.
    """

    images: Images
    index: int

    @property
    def record(self) -> ImageRecord:
        """What is known of it without decoding it."""
        return self.images.record(self.index)

    def info(self) -> ImageInfo | None:
        """Return what its header says; None of an image that is no file, or is Pillow's."""
        path = path_of(self.images, self.index)
        return None if path is None else info_of(path)

    def pixels(self, region: Region) -> Tensor:
        """Return a region, RGB, uint8, shape ``(3, *region.size)``."""
        if isinstance(self.images, ReadsWindows):
            pixels = self.images.window(self.index, region)
            if pixels is not None:
                return pixels
        return self.images.image(self.index)[region.last_dims]


def info_of(path: Path) -> ImageInfo | None:
    """Return what the header of an image file says; None of those of which no reader knows more than their size.

    A TIFF may tell its CRS by parameters, which only GDAL puts together: it is asked where the file's reader does not know the place.
    """
    reader, info = reader_for(path), None
    if reader is not None:
        with open_by_reader(path, reader) as image:
            info = image.info
        if info.georeference is not None and info.georeference.crs:
            return info
    file, page = split_page(path)
    if not page and find_spec("rasterio") is not None and _is_tiff(file):
        with GdalReader().open(file, None) as image:
            return image.info if image.info.georeference is not None else info
    return info


def _is_tiff(path: Path) -> bool:
    if path.is_dir():
        return False
    with path.open("rb") as file:
        return file.read(4) in TIFF_HEADS
