"""Pictures of what a model predicts, beside what is there, for every task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ziggurat.config import RunConfig
from ziggurat.data.dataset import Dataset, ImageRecord
from ziggurat.inference.run import run_images
from ziggurat.inference.tiles import compute_as_configured, place_as_configured
from ziggurat.models.vision import VisionModel
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh
from ziggurat.tasks.base import Task


def draw_examples(
    model: VisionModel,
    task: Task[Any, Any],
    dataset: Dataset,
    indices: Sequence[int],
    config: RunConfig,
    device: torch.device,
) -> list[Image.Image]:
    """Run a model on some images of a data set, and draw its predictions and the truth.

    Args:
        model: Is run by this worker alone.
        task: The task of the model.
        dataset: With the labels of the model.
        indices: Of the images.
        config: Of the run.
        device: Where the model is.

    Returns:
        A picture for each index, as the task compares what is predicted with what is there.

    Raises:
        UserError: Listing each image that cannot be decoded.
    """
    images = _Chosen(dataset, tuple(indices))
    executor = place_as_configured(model, config, make_mesh(Workers(device=device)))
    found = run_images(task, images, compute_as_configured(config, executor))
    return [
        task.draw_comparison(dataset.image(index), found[number], dataset, index)
        for number, index in enumerate(indices)
    ]


@dataclass(frozen=True)
class _Chosen:
    """Some images of a data set, counted from 0.

    Attributes:
        dataset: Whose images they are.
        indices: The number of each image in `dataset`.
    """

    dataset: Dataset
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def record(self, index: int) -> ImageRecord:
        return self.dataset.record(self.indices[index])

    def image(self, index: int) -> Tensor:
        return self.dataset.image(self.indices[index])
