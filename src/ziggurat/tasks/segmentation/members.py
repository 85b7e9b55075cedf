"""Segmentation by several models: the class with the best mean of their logits, and a map of how far they lie apart.

What is found in a tile are sheets: the labels, the probabilities of all classes where they are kept, and at the end the disagreement,
a byte for each pixel as `tasks.probabilities` has them.

Shapes: ``N`` models, ``B`` tiles, ``K`` classes, ``H`` rows and ``W`` columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ziggurat.data.batch import IGNORED_PIXEL
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Extent, Region
from ziggurat.data.views import View
from ziggurat.parallel.spatial import whole_tensor
from ziggurat.system.writing import whole_file
from ziggurat.tasks.base import Decoders, Place, Task, Written
from ziggurat.tasks.disagreement import disagreement
from ziggurat.tasks.probabilities import ONE, UNKNOWN, to_bytes
from ziggurat.tasks.segmentation.bands import image_bands, write_bands
from ziggurat.tasks.segmentation.probabilities import passing_probabilities
from ziggurat.tasks.segmentation.task import SegmentationTask
from ziggurat.visualize.palette_image import PaletteImage

DISAGREEMENT = "disagreement"  # the folder, and what a row calls the file
_NOTHING = (40, 40, 90)  # the colour of pixels of which nothing is known
GREYS = [*((value, value, value) for value in range(UNKNOWN)), _NOTHING]


class SegmentationMembers(SegmentationTask):
    """Averages the logits of each pixel; predicted are labels, as by one model.

    Args:
        tasks: Of each model.
    """

    def __init__(self, tasks: Sequence[Task[Any, Any]]) -> None:
        super().__init__(tasks[0].model, tasks[0].config)
        self._num_models = len(tasks)

    @property
    def decoders(self) -> Decoders:
        """What returns the logits of each model."""
        return [whole_logits] * self._num_models

    def combine(self, parts: Sequence[list[Any]]) -> list[Tensor]:
        """Return the sheets of each tile."""
        return [self._sheets(torch.stack(of_tile)) for of_tile in zip(*parts, strict=True)]

    def _sheets(self, logits_NKHW: Tensor) -> Tensor:
        (found,) = self.decode({"logits": logits_NKHW.mean(dim=0)[None]}, [tuple(logits_NKHW.shape[2:])])
        apart = to_bytes(disagreement(logits_NKHW.softmax(dim=1)))
        return torch.cat([found if found.ndim == 3 else found[None], apart[None]])

    def write(
        self,
        tiles: Iterable[tuple[Region, Tensor]],
        view: View,
        record: ImageRecord,
        place: Place,
        picture: Extent | None,
    ) -> Written[Tensor]:
        """Write the mask of an image, and in the folder ``disagreement`` how far the models lie apart at each pixel."""
        folder = place.folder / DISAGREEMENT
        folder.mkdir(exist_ok=True)
        file = folder / f"{place.stem}.png"
        bands = image_bands(_beside_labels(tiles, view, record, place), view, record, place)
        with whole_file(file) as partial, _Map(partial, record.extent) as apart:
            written = write_bands(apart.taking(bands), record, place, picture)
        facts = {DISAGREEMENT: str(file), "mean_disagreement": apart.mean}
        return replace(written, rows=[row | facts for row in written.rows])


def whole_logits(outputs: dict[str, Tensor], sizes: Sequence[Extent]) -> list[Tensor]:
    """Return the logits of each tile, float32, shapes ``(K, H, W)``, on the CPU.

    Communication:
        Where several workers share each image: one gather (``K`` numbers for each pixel).
    """
    whole_BKHW = whole_tensor(outputs["logits"], "the logits of all pixels").float().cpu()
    return [one[:, :height, :width].clone() for one, (height, width) in zip(whole_BKHW, sizes, strict=True)]


def _beside_labels(
    tiles: Iterable[tuple[Region, Tensor]], view: View, record: ImageRecord, place: Place
) -> Iterator[tuple[Region, Tensor]]:
    """Yield tiles in which a pixel's number is its label, and 256 times its disagreement; probabilities are given away."""
    apart_HW = torch.empty(0)

    def of_one_model() -> Iterator[tuple[Region, Tensor]]:
        nonlocal apart_HW
        for tile, sheets in tiles:
            apart_HW = sheets[-1]
            yield tile, sheets[:-1]

    labels: Iterator[tuple[Region, Tensor]]
    if place.probabilities is None:
        labels = ((tile, sheets[0]) for tile, sheets in of_one_model())
    else:
        labels = passing_probabilities(of_one_model(), view, record.extent, place.probabilities)
    for tile, labels_HW in labels:  # one after the other: the disagreement is of the same tile
        yield tile, labels_HW.int() | apart_HW.int() << 8


class _Map:
    """Writes the disagreement of an image's pixels, as bands of its full width come.

    Args:
        path: Of the file.
        extent: Of the image.
    """

    def __init__(self, path: Path, extent: Extent) -> None:
        self._image = PaletteImage(path, extent, GREYS)
        self._total, self._count = 0, 0

    def __enter__(self) -> _Map:
        self._image.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._image.__exit__(*error)

    @property
    def mean(self) -> float | None:
        """The mean disagreement of all pixels that hold something; None if none does."""
        return self._total / (ONE * self._count) if self._count else None

    def taking(self, bands: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the labels of bands, uint8, of which each pixel's disagreement is taken out."""
        for band in bands:
            labels = (band & 255).to(torch.uint8)
            apart, known = band >> 8, labels != IGNORED_PIXEL
            self._total += int(apart[known].sum())
            self._count += int(known.sum())
            self._image.add(apart.where(known, UNKNOWN).to(torch.uint8).numpy())
            yield labels
