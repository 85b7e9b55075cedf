"""Detection by several models: what each finds on an image is fused, and each box says how many of them have found it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ziggurat.data.dataset import ImageRecord
from ziggurat.data.detections import Detections
from ziggurat.data.extents import Region
from ziggurat.data.views import View
from ziggurat.tasks.base import Decoders, Place, ResultTable, Task
from ziggurat.tasks.detection.fusing import FUSIONS
from ziggurat.tasks.detection.task import DetectionTask
from ziggurat.tasks.detection.writing import box_table, coco_rows

ByModel = list[Detections]


class DetectionMembers(DetectionTask):
    """What is found in a tile are the objects of each model, a list; predicted are those of ``decode.fusion``.

    Each model's tiles are joined as if it were alone: what is fused are the predictions of the runs.

    Args:
        tasks: Of each model.
    """

    def __init__(self, tasks: Sequence[Task[Any, Any]]) -> None:
        Task.__init__(self, tasks[0].model, tasks[0].config)
        self._tasks = tuple(tasks)
        self._fuse = FUSIONS[self.config.decode.fusion]

    @property
    def decoders(self) -> Decoders:
        """What decodes the outputs of each model."""
        return [task.decode for task in self._tasks]

    def combine(self, parts: Sequence[list[Any]]) -> list[Any]:
        """Return the objects of each model, tile by tile."""
        return [list(of_tile) for of_tile in zip(*parts, strict=True)]

    def choose(self, labels: Sequence[int]) -> None:
        """Let only some classes count, for every model."""
        for task in self._tasks:
            task.choose(labels)

    def stitch(self, tiles: Sequence[tuple[Region, Any]], view: View, record: ImageRecord) -> Detections:
        """Join each model's tiles, and fuse what they give."""
        found = [
            task.stitch([(tile, by_model[number]) for tile, by_model in tiles], view, record)
            for number, task in enumerate(self._tasks)
        ]
        return self._fuse(found, record.extent, self.config.decode)

    def pack(self, found: Sequence[Any]) -> Any:
        """Return what each model has found, in three tensors for each."""
        return [task.pack([one[number] for one in found]) for number, task in enumerate(self._tasks)]

    def unpack(self, packed: Any) -> list[Any]:
        """Undo `pack`."""
        parts = [task.unpack(part) for task, part in zip(self._tasks, packed, strict=True)]
        return self.combine(parts)

    def rows(self, prediction: Detections, place: Place) -> list[dict[str, Any]]:
        """Return every detection as COCO has it, with the share of the models that have found it."""
        assert prediction.shares is not None
        rows = coco_rows(prediction, place)
        shares = prediction.shares.tolist()
        return [row | {"members": round(share, 4)} for row, share in zip(rows, shares, strict=True)]

    def table(self, rows: Sequence[dict[str, Any]]) -> ResultTable:
        """Return a line for each box, with the share of the models that have found it."""
        columns, lines = box_table(rows)
        extended = ([*line, row["members"]] for line, row in zip(lines, rows, strict=True))
        return ResultTable((*columns, "members"), extended)
