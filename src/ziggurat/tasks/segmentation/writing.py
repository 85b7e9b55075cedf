"""What `predict` writes of a segmented image: its mask as a file, and its pixels by class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ziggurat.data.batch import IGNORED_PIXEL
from ziggurat.data.extents import Extent, Region
from ziggurat.system.writing import whole_file
from ziggurat.tasks.base import Place, ResultTable
from ziggurat.visualize.labels import label_palette
from ziggurat.visualize.palette_image import PaletteImage

MASKS = "masks"


def write_mask(
    bands: Iterable[Tensor], extent: Extent, place: Place, overview: LabelOverview | None = None
) -> dict[str, Any]:
    """Write the labels of an image's pixels into the folder ``masks``, and return its row.

    Args:
        bands: Of the image's full width, from above: uint8, shapes ``(rows, W)``; one is in memory at a time.
        extent: Of the image.
        place: Of the image.
        overview: Takes what it needs of them.
    """
    masks = place.folder / MASKS
    masks.mkdir(exist_ok=True)
    file = masks / f"{place.stem}.png"
    counts = torch.zeros(len(place.classes), dtype=torch.int64)
    with whole_file(file) as partial, PaletteImage(partial, extent, label_palette()) as image:
        for band in bands:
            image.add(band.cpu().numpy())
            found = torch.bincount(band[band != IGNORED_PIXEL], minlength=len(counts))
            counts = found + torch.cat([counts, counts.new_zeros(len(found) - len(counts))])
            if overview is not None:
                overview.add(band)
    pixels = {name: count for name, count in zip(place.classes, counts.tolist(), strict=True) if count}
    return place.facts | {"mask": str(file), "pixels": pixels}


def without_blanks(bands: Iterable[Tensor], place: Place, extent: Extent) -> Iterator[Tensor]:
    """Yield the labels of an image's pixels, `IGNORED_PIXEL` where it holds nothing.

    Args:
        bands: Of the image's full width, from above; may be written to.
        place: Of the image.
        extent: Of the image.
    """
    top = 0
    for band in bands:
        blank_HW = place.blank(Region((top, 0), (len(band), extent[1])))
        top += len(band)
        yield band if blank_HW is None else band.masked_fill(blank_HW.to(band.device), IGNORED_PIXEL)


class LabelOverview:
    """The labels of a smaller picture of an image, of which bands come one after the other.

    Args:
        extent: Of the image.
        smaller: Of the picture.

    Attributes:
        labels_HW: Each that of the pixel in its middle, uint8.
    """

    def __init__(self, extent: Extent, smaller: Extent) -> None:
        self.labels_HW = torch.zeros(smaller, dtype=torch.uint8)
        self._rows, self._columns = (middles(old, new) for old, new in zip(extent, smaller, strict=True))
        self._next = 0  # row of the image

    def add(self, band: Tensor) -> None:
        """Take the next rows of the image."""
        last = self._next + len(band)
        mine = (self._rows >= self._next) & (self._rows < last)
        self.labels_HW[mine] = band[self._rows[mine] - self._next][:, self._columns].cpu()
        self._next = last


def middles(size: int, smaller: int) -> Tensor:
    """Return the pixel in the middle of each of fewer pixels, int64, shape ``(smaller,)``.

    Example:
        >>> middles(9, 3).tolist()
        [1, 4, 7]
    """
    return (2 * torch.arange(smaller) + 1) * size // (2 * smaller)


def mask_table(rows: Sequence[dict[str, Any]]) -> ResultTable:
    """Return a line for each class that an image has, with the image's mask, and the class's pixels and share of them."""
    lines = (
        [row["file_name"], row["mask"], label, pixels, pixels / sum(row["pixels"].values())]
        for row in rows
        for label, pixels in row["pixels"].items()
    )
    return ResultTable(("image_path", "mask", "label", "pixels", "share"), lines)
