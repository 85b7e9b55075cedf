"""The image that results are of: what its header says, and its pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Region
from ziggurat.data.readers.images import ReadsWindows
from ziggurat.data.readers.opened import ImageInfo, OpenedImage
from ziggurat.data.readers.places import info_of, open_placed
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

    @contextmanager
    def opened(self) -> Iterator[OpenedImage | None]:
        """Open it for the body; None of an image that is no file, or is Pillow's."""
        path = path_of(self.images, self.index)
        if path is None:
            yield None
            return
        with open_placed(path) as image:
            yield image

    def pixels(self, region: Region) -> Tensor:
        """Return a region, RGB, uint8, shape ``(3, *region.size)``; an image of which no window can be read is decoded once."""
        if isinstance(self.images, ReadsWindows):
            pixels = self.images.window(self.index, region)
            if pixels is not None:
                return pixels
        return self._whole[region.last_dims]

    @cached_property
    def _whole(self) -> Tensor:
        return self.images.image(self.index)
