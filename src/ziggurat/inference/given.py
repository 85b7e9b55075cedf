"""Images as a program has them: files, tensors, arrays and Pillow's, seen as those of a data set."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ziggurat.config import DataConfig
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Extent, Region
from ziggurat.data.readers.image_files import ImageFiles, inspect_images, scaled
from ziggurat.data.readers.images import levels_of, window_of
from ziggurat.data.readers.in_memory import pixels_of
from ziggurat.data.readers.layout import Reading
from ziggurat.data.readers.spacing import Scaling
from ziggurat.errors import UserError

GivenImage = str | os.PathLike[str] | Tensor | np.ndarray | Image.Image


def several(images: GivenImage | Iterable[GivenImage]) -> list[Any] | None:
    """Return several images as a list; None if it is meant as one."""
    if isinstance(images, (str, os.PathLike, Tensor, np.ndarray, Image.Image)):
        return None
    return list(images) if isinstance(images, Iterable) else None


@dataclass(frozen=True)
class GivenImages:
    """Images that a program names or has in memory, counted from 0.

    Attributes:
        sources: Of each image, what has it as its only one.
    """

    sources: Sequence[ImageFiles | _Pixels]

    @classmethod
    def of(cls, images: Sequence[Any], config: DataConfig) -> GivenImages:
        """Look at images, of files at their headers alone.

        Raises:
            UserError: Listing every one that is no image, or whose samples have no range.
        """
        reading, scaling = Reading.of(config), Scaling.of(config)
        sources: list[ImageFiles | _Pixels] = []
        faults = []
        for index, image in enumerate(images):
            name = f"image {index}"
            try:
                if isinstance(image, (str, os.PathLike)):
                    found = inspect_images([Path(image)], config.max_pixels, reading)
                    sources.append(scaled(found, scaling))
                else:
                    if scaling is not None and not scaling.keeps_unscaled:
                        raise UserError(
                            scaling.unscaled_images({name: "it has no file whose header says it"})
                        )
                    sources.append(_Pixels(name, pixels_of(image, name, reading)))
            except UserError as error:
                faults += error.faults
        if faults:
            raise UserError(faults)
        return cls(sources)

    def __len__(self) -> int:
        return len(self.sources)

    def record(self, index: int) -> ImageRecord:
        """Return what is known of an image, without decoding it; ids count from 1."""
        return replace(self.sources[index].record(0), image_id=index + 1)

    def image(self, index: int) -> Tensor:
        """Return an image, RGB, uint8, shape ``(3, H, W)``."""
        return self.sources[index].image(0)

    def levels(self, index: int) -> tuple[Extent, ...]:
        """Return the rows and columns of each level of resolution of an image, the finest first."""
        return levels_of(self.sources[index], 0, self.record(index).extent)

    def window(self, index: int, region: Region, level: int = 0) -> Tensor | None:
        """Return a window of a level of an image without the rest of its file; None where that is not possible."""
        return window_of(self.sources[index], 0, region, level)


@dataclass(frozen=True)
class _Pixels:
    """One image in memory.

    Attributes:
        name: In messages.
        pixels: As `data.dataset.Dataset.image` returns them.
    """

    name: str
    pixels: Tensor

    def record(self, index: int) -> ImageRecord:
        height, width = self.pixels.shape[1:]
        return ImageRecord(self.name, index + 1, height, width)

    def image(self, index: int) -> Tensor:
        return self.pixels

    def window(self, index: int, region: Region) -> Tensor | None:
        return self.pixels[region.last_dims]
