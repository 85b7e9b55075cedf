"""From the logits of a tile's pixels to labels, and to those of an image in its own pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Extent
from ziggurat.data.views import View
from ziggurat.parallel.spatial import SpatialTensor, whole_tensor
from ziggurat.tasks.segmentation.writing import middles

BAND_PIXELS = 1 << 22  # of labels in the image's own pixels


def whole_labels(logits_BKHW: Tensor) -> Tensor:
    """Return the best class of each pixel, uint8, shape ``(B, H, W)``.

    Communication:
        Where several workers share each image: one gather (a byte for each pixel).
    """
    if not isinstance(logits_BKHW, SpatialTensor):
        return logits_BKHW.argmax(dim=1).to(torch.uint8)
    x = logits_BKHW
    labels = x.local.argmax(dim=1).to(torch.uint8)
    return whole_tensor(SpatialTensor(labels, (x.dims[0], *x.dims[2:]), x.mesh), "the labels of all pixels")


def to_own_pixels(labels_HW: Tensor, view: View, record: ImageRecord) -> Tensor:
    """Undo the resizing of an image; each pixel takes its nearest label."""
    if view.extent == record.extent:
        return labels_HW
    return torch.cat(list(own_bands([labels_HW], view.extent, record.extent)))


def own_bands(bands: Iterable[Tensor], resized: Extent, extent: Extent) -> Iterator[Tensor]:
    """Undo the resizing of an image, of which bands come one after the other; each pixel takes its nearest label.

    Args:
        bands: Of the resized image's full width, from above, shapes ``(rows, W)``.
        resized: Rows and columns of the resized image.
        extent: Of the image.

    Yields:
        Bands of the image, of `BAND_PIXELS` at most, or of one row.
    """
    rows, columns = (middles(old, new) for old, new in zip(resized, extent, strict=True))
    most = max(1, BAND_PIXELS // extent[1])
    start = 0
    for band in bands:
        mine = rows[(rows >= start) & (rows < start + len(band))] - start
        if len(mine):  # rows of a larger image may be nobody's nearest
            yield from (band[some][:, columns] for some in mine.split(most))
        start += len(band)
