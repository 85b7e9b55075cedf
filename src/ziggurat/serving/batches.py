"""Whether images may be computed together: only where each then has the bits that it has alone.

A convolution over four images may add in another order than one over a single image, as libraries choose their kernels by shapes.
The order does not depend on the values: so a batch of noise, once for each shape, tells it. Where bits change, requests that wait
are still answered by one call, in which each image is a batch of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from ziggurat.data.batch import map_tensors
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Extent, Region
from ziggurat.data.views import Piece, View, batch_extent, make_batches
from ziggurat.inference.tiles import Compute, Work, run_tiles
from ziggurat.models.vision import takes_samples
from ziggurat.tasks.base import Task


class Noise:
    """Images of noise, all of one size.

    Args:
        count: How many.
        bands: Of each.
        extent: Rows and columns of each.
    """

    def __init__(self, count: int, bands: int, extent: Extent) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (count, bands, *extent)
        self._images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    def __len__(self) -> int:
        return len(self._images)

    def record(self, index: int) -> ImageRecord:
        """Return what is known of an image."""
        height, width = self._images.shape[2:]
        return ImageRecord(f"noise {index}", index + 1, height, width)

    def image(self, index: int) -> Tensor:
        """Return an image."""
        return self._images[index]


class Batches:
    """Puts the tiles of several images into batches in which each image has the bits that it has alone.

    Args:
        compute: How the model is run; all its workers ask the same in the same order.
        most: Most images of a batch.
    """

    def __init__(self, compute: Compute, most: int) -> None:
        self._compute, self._most = compute, min(most, compute.batch)
        self._kept: dict[Extent, bool] = {}

    def work_of(self, views: Sequence[View]) -> Work:
        """Return batches that give each image the bits that `predict` of it alone has.

        An image of several tiles has its own, as there; images of one tile share them where that keeps the bits.
        """
        multiple, most = self._compute.size_multiple, self._compute.batch
        batches: list[tuple[Piece, ...]] = []
        single: dict[Extent, list[Piece]] = {}
        for index, view in enumerate(views):
            own = [
                tuple(Piece(index, one.tile) for one in batch)
                for batch in make_batches([view], multiple, most)
            ]
            if len(view.tiles) == 1:
                single.setdefault(batch_extent(own[0], multiple), []).append(own[0][0])
            else:
                batches += own
        for extent, pieces in single.items():
            count = self._most if len(pieces) > 1 and self.keep_bits(extent) else 1
            batches += [tuple(pieces[start : start + count]) for start in range(0, len(pieces), count)]
        size = self._compute.mesh.data.size
        cuts = [len(batches) * rank // size for rank in range(size + 1)]
        return Work(views, batches, range(len(batches)), cuts)

    def keep_bits(self, extent: Extent) -> bool:
        """Return whether up to as many tiles of a padded size as share a batch have the bits that they have alone.

        Where several workers compute together nobody has looked: each image is a batch of its own. So it is of an export, whose
        outputs may be what was found, and not all that was computed: noise, in which nothing is found, would show nothing.
        """
        if self._compute.mesh.workers.size > 1:
            return False
        if any(takes_samples(one.executor.model) for one in self._compute.members):
            return False
        if extent not in self._kept:
            alone = self._outputs(1, self._most, extent)
            counts = range(2, self._most + 1)
            self._kept[extent] = bool(counts) and all(
                _equal(alone, self._outputs(count, self._most, extent)) for count in counts
            )
        return self._kept[extent]

    def _outputs(self, count: int, most: int, extent: Extent) -> list[list[Tensor]] | None:
        """Return all tensors of the outputs for each of `most` tiles in batches of `count`; None where they have no dim of the batch."""
        images = Noise(most, self._compute.bands, extent)
        tile = Region.whole(extent)
        views = [View(extent, (tile,))] * most
        batches = [
            tuple(Piece(index, tile) for index in range(start, min(start + count, most)))
            for start in range(0, most, count)
        ]
        work = Work(views, batches, range(len(batches)), (0, len(batches)))
        found: list[list[Tensor]] = []

        def take(number: int, results: Sequence[list[Tensor]], faults: Any, /) -> None:
            found.extend(results)

        raw = cast("Task[list[Tensor], Any]", _Raw(len(self._compute.members)))
        run_tiles(images, work, raw, replace(self._compute, progress=None), take)
        return found if all(found) else None


class _Raw:
    """Stands for a task: what it finds in a tile are all tensors of the outputs that have a dim of the batch."""

    def __init__(self, members: int) -> None:
        self.decoders = (self._decode,) * members

    def combine(self, parts: Sequence[list[list[Tensor]]]) -> list[list[Tensor]]:
        return [[one for tensors in of_tile for one in tensors] for of_tile in zip(*parts, strict=True)]

    def _decode(self, outputs: Any, sizes: Sequence[Extent]) -> list[list[Tensor]]:
        tensors: list[Tensor] = []

        def keep(one: Tensor) -> Tensor:
            tensors.append(one.detach().cpu())
            return one

        map_tensors(outputs, keep)
        shared = [one for one in tensors if one.dim() and len(one) == len(sizes)]
        return [[one[place].clone() for one in shared] for place in range(len(sizes))]


def _equal(one: list[list[Tensor]] | None, other: list[list[Tensor]] | None) -> bool:
    if one is None or other is None:
        return False
    return all(
        len(a) == len(b) and all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
        for a, b in zip(one, other, strict=True)
    )
