"""The probability of each class at each pixel, beside its label: of a tile *sheets*, the labels first and then one for each class.

Shapes: ``B`` images, ``K`` classes, ``H`` rows and ``W`` columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ziggurat.data.extents import Extent, Region
from ziggurat.data.tiles import cores_of
from ziggurat.data.views import View
from ziggurat.parallel.spatial import SpatialTensor, whole_tensor
from ziggurat.tasks.probabilities import ProbabilitySink, to_bytes
from ziggurat.tasks.segmentation.decoding import whole_labels
from ziggurat.tasks.segmentation.writing import middles

BAND = 256  # rows of a tile of a resized image that are made at once


def whole_sheets(logits_BKHW: Tensor) -> Tensor:
    """Return the best class of each pixel, and the probability of each class as a byte, uint8, shape ``(B, 1 + K, H, W)``.

    Communication:
        Where several workers share each image: two gathers (``1 + K`` bytes for each pixel).
    """
    x = logits_BKHW
    local = x.local if isinstance(x, SpatialTensor) else x
    wide = local.to(torch.promote_types(local.dtype, torch.float32))
    scores = to_bytes(wide.softmax(dim=1))
    if isinstance(x, SpatialTensor):
        scores = whole_tensor(SpatialTensor(scores, x.dims, x.mesh), "the probabilities of all pixels")
    return torch.cat([whole_labels(x)[:, None], scores], dim=1)


def labels_of(found: Tensor) -> Tensor:
    """Return the labels of what was found in a tile, whether it is labels alone or sheets, shape ``(H, W)``."""
    return found if found.ndim == 2 else found[0]


def passing_probabilities(
    tiles: Iterable[tuple[Region, Tensor]], view: View, extent: Extent, sink: ProbabilitySink
) -> Iterator[tuple[Region, Tensor]]:
    """Yield the labels of tiles, and give each pixel's probabilities away as its tile comes, that in whose core it lies.

    Args:
        tiles: All tiles of an image with their sheets, in order.
        view: Of the image. Where it is resized, each pixel takes its nearest probabilities, as it does its label.
        extent: Of the image in its own pixels.
        sink: Takes the probabilities.
    """
    cores, is_resized = cores_of(view.tiles), view.extent != extent
    sources = [middles(old, new) for old, new in zip(view.extent, extent, strict=True)]
    for tile, sheets in tiles:
        core = cores[tile]
        own = sheets[1:][core.seen_from(tile.start).last_dims]
        for region, probabilities in _in_own_pixels(core, own, sources) if is_resized else [(core, own)]:
            sink.add(region, probabilities)
        yield tile, sheets[0]


def _in_own_pixels(
    core: Region, values_KHW: Tensor, sources: Sequence[Tensor]
) -> Iterator[tuple[Region, Tensor]]:
    """Yield the pixels of an image that come from a region of the resized image, some rows at a time.

    Args:
        core: The region.
        values_KHW: Of its pixels.
        sources: Of each row, and of each column of the image where it comes from, rising.
    """
    (top, bottom), (left, right) = (
        torch.searchsorted(places, torch.tensor(ends)).tolist()
        for places, *ends in zip(sources, core.start, core.end, strict=True)
    )
    columns = sources[1][left:right] - core.left
    for first in range(top, bottom, BAND):
        rows = sources[0][first : min(first + BAND, bottom)] - core.top
        yield Region((first, left), (len(rows), right - left)), values_KHW[:, rows][:, :, columns]
