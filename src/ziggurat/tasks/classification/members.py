"""Classification by several models: the mean of their probabilities, and how far these lie apart.

Shapes: ``N`` models, ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Extent, Region
from ziggurat.data.views import View
from ziggurat.tasks.base import Decoders, Place, ResultTable, Task, Written
from ziggurat.tasks.classification.task import ClassificationTask
from ziggurat.tasks.classification.writing import class_table
from ziggurat.tasks.disagreement import disagreement


class ClassificationMembers(ClassificationTask):
    """What is found in an image are the probabilities of each model, float32, shape ``(N, K)``; predicted is their mean.

    Args:
        tasks: Of each model.
    """

    def __init__(self, tasks: Sequence[Task[Any, Any]]) -> None:
        super().__init__(tasks[0].model, tasks[0].config)
        self._tasks = tuple(tasks)

    @property
    def decoders(self) -> Decoders:
        """What decodes the outputs of each model."""
        return [task.decode for task in self._tasks]

    def combine(self, parts: Sequence[list[Any]]) -> list[Tensor]:
        """Return the probabilities of each model, image by image."""
        return [torch.stack(of_image) for of_image in zip(*parts, strict=True)]

    def stitch(self, tiles: Sequence[tuple[Region, Tensor]], view: View, record: ImageRecord) -> Tensor:
        """Return the mean of the probabilities."""
        ((_, probabilities_NK),) = tiles
        return probabilities_NK.mean(dim=0)

    def write(
        self,
        tiles: Iterable[tuple[Region, Tensor]],
        view: View,
        record: ImageRecord,
        place: Place,
        picture: Extent | None,
    ) -> Written[Tensor]:
        """Write the mean, how many models have the same best class, and how far their probabilities lie apart."""
        found = list(tiles)
        written = super().write(found, view, record, place, picture)
        ((_, probabilities_NK),) = found
        best = probabilities_NK.mean(dim=0).argmax()
        apart = {
            "agreement": float((probabilities_NK.argmax(dim=1) == best).float().mean()),
            "spread": float(probabilities_NK[:, best].std(correction=0)),
            "disagreement": float(disagreement(probabilities_NK)),
        }
        return replace(written, rows=[row | apart for row in written.rows])

    def table(self, rows: Sequence[dict[str, Any]]) -> ResultTable:
        """Return the best class of each image, with how far the models agree."""
        columns, lines = class_table(rows)
        more = ("agreement", "spread", "disagreement")
        extended = ([*line, *(row[name] for name in more)] for line, row in zip(lines, rows, strict=True))
        return ResultTable((*columns, *more), extended)
