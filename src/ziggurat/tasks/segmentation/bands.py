"""The labels of an image in bands of its full width, which come one after the other: from its tiles to its files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Extent, Region
from ziggurat.data.views import View
from ziggurat.tasks.base import CutOff, Place, Written
from ziggurat.tasks.segmentation.decoding import own_bands
from ziggurat.tasks.segmentation.label_tiles import label_bands
from ziggurat.tasks.segmentation.writing import LabelOverview, without_blanks, write_mask


def image_bands(
    tiles: Iterable[tuple[Region, Tensor]], view: View, record: ImageRecord, place: Place
) -> Iterator[Tensor]:
    """Yield the labels of an image's own pixels from above, `IGNORED_PIXEL` where it holds nothing.

    Args:
        tiles: Of the image with their labels, in order; of any whole-number type.
        view: Of the image.
        record: Of the image.
        place: Of the image.
    """
    bands = label_bands(tiles, view.tiles)
    if view.extent != record.extent:
        bands = own_bands(bands, view.extent, record.extent)
    return without_blanks(bands, place, record.extent)


def write_bands(
    bands: Iterable[Tensor], record: ImageRecord, place: Place, picture: Extent | None
) -> Written[Tensor]:
    """Write the mask of an image of which bands of labels come one after the other.

    Args:
        bands: From above, uint8.
        record: Of the image.
        place: Of the image.
        picture: Extent of the picture that is drawn of it; None for none.
    """
    overview = None if picture is None else LabelOverview(record.extent, picture)
    row = write_mask(bands, record.extent, place, overview)
    return Written([row], CutOff(), None if overview is None else overview.labels_HW)
