"""What was found, cut out of the images: a PNG for each box, in a folder for each class."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ziggurat.data.extents import Extent, Region
from ziggurat.inference.outputs.base import ImageResults, Output
from ziggurat.system.writing import whole_file

FOLDER = "crops"


class Crops(Output):
    """The folder ``crops``: ``CLASS/IMAGE_1.png``, counted in the order of the rows. Pixels are those that the network was given."""

    name = "crops"
    takes = ("boxes",)

    def image(self, results: ImageResults) -> None:
        """See `Output`."""
        for number, row in enumerate(results.rows, 1):
            region = pixels_of(row["bbox"], results.source.record.extent)
            if not region.volume:
                continue
            label = self.target.label(row)
            folder = self.target.folder / FOLDER / (file_name(self.target.classes[label]) or str(label))
            folder.mkdir(parents=True, exist_ok=True)
            picture = self.target.composite(results.source.pixels(region))
            pixels = picture.permute(1, 2, 0).contiguous().numpy()
            with whole_file(folder / f"{results.stem}_{number}.png") as partial:
                Image.fromarray(pixels).save(partial, format="PNG")

    def close(self) -> list[Path]:
        """See `Output`."""
        (self.target.folder / FOLDER).mkdir(exist_ok=True)
        return [self.target.folder / FOLDER]


def pixels_of(bbox: Sequence[float], extent: Extent) -> Region:
    """Return the pixels of an image that a box touches.

    Example:
        >>> pixels_of([1.5, 2, 3, 9], (10, 20))
        Region(start=(2, 1), size=(8, 4))
    """
    left, top, width, height = bbox
    end = (math.ceil(top + height), math.ceil(left + width))
    return Region.between((math.floor(top), math.floor(left)), end).intersection(Region.whole(extent))


def file_name(name: str) -> str:
    """Return a name as files may have it.

    Example:
        >>> file_name("oak / young"), file_name("../..")
        ('oak_young', '')
    """
    return re.sub(r"[^\w\-]+", "_", name).strip("_")
