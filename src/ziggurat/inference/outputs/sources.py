"""The image that results are of: what its header says, and its pixels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Region
from ziggurat.data.readers.images import ReadsWindows
from ziggurat.data.readers.opened import ImageInfo
from ziggurat.data.readers.places import info_of
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
