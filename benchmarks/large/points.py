"""Images of any size with points planted in them, and a network that fires at these: what is measured is all else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from torch import Tensor, nn

from ziggurat.config import RunConfig
from ziggurat.data.detections import Detections
from ziggurat.data.extents import Extent
from ziggurat.tasks.base import Task
from ziggurat.tasks.detection.suppression import suppress
from ziggurat.tasks.detection.task import DetectionTask

TILE = 512  # of the file
HALF = 8.0  # of an object's box
CLASSES = ("first", "second")


def plant(side: int, count: int, seed: int = 0) -> np.ndarray:
    """Return rows and columns of points, each in a cell of a lattice of its own, int64, shape ``(points, 2)``."""
    per_side = round(count**0.5)
    cell = side // per_side
    corners = np.stack(np.meshgrid(*2 * [np.arange(per_side) * cell], indexing="ij"), axis=-1).reshape(-1, 2)
    return corners + np.random.default_rng(seed).integers(HALF, cell - HALF, corners.shape)


def write_image(path: Path, side: int, points: np.ndarray) -> None:
    """Write a tiled, deflated BigTIFF of zeros with the points, tile by tile."""
    per_row = -(-side // TILE)
    order = np.lexsort((points[:, 1], points[:, 0] // TILE * per_row + points[:, 1] // TILE))
    points = points[order]
    numbers = points[:, 0] // TILE * per_row + points[:, 1] // TILE
    order = numbers.argsort(kind="stable")
    points, numbers = points[order], numbers[order]

    def tiles() -> Iterator[np.ndarray]:
        for number in range(per_row**2):
            tile = np.zeros((TILE, TILE, 3), dtype=np.uint8)
            mine = points[np.searchsorted(numbers, number) : np.searchsorted(numbers, number, side="right")]
            tile[mine[:, 0] % TILE, mine[:, 1] % TILE] = (255, 200, 0)
            yield tile

    tifffile.imwrite(
        path, tiles(), shape=(side, side, 3), dtype=np.uint8, tile=(TILE, TILE), photometric="rgb",
        compression="zlib", compressionargs={"level": 1}, bigtiff=True,
    )  # fmt: skip


class PassOn(nn.Module):
    """Gives its input."""

    size_multiple = 32
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)
    num_classes = 3

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task

    def forward(self, images_BCHW: Tensor) -> Any:
        """Return the images, which are the logits of three classes, too."""
        return {"logits": images_BCHW} if self.task == "segment" else images_BCHW


class FindPoints(DetectionTask):
    """Finds a box around each point, clipped to the tile; the green channel is its score."""

    def __init__(self, config: RunConfig) -> None:
        Task.__init__(self, None, config)  # there is no head

    def detections(self, outputs: Tensor, sizes: Sequence[Extent]) -> list[Detections]:
        """Return what is found in each tile."""
        return [self._of_one(image[:, :h, :w]) for image, (h, w) in zip(outputs, sizes, strict=True)]

    def _of_one(self, image_CHW: Tensor) -> Detections:
        places = (image_CHW[0] > 0.5).nonzero()
        centres = places.flip(1).float() + 0.5
        boxes = torch.cat([centres - HALF, centres + HALF], dim=1).clamp(min=0)
        boxes = torch.minimum(boxes, torch.tensor(image_CHW.shape[1:]).flip(0).repeat(2))
        scores = image_CHW[1, places[:, 0], places[:, 1]].float()
        found = Detections(boxes, scores, torch.zeros(len(places), dtype=torch.int64))
        return suppress(found, self.config.decode.nms_threshold, self.config.decode.max_detections)
