"""The passes of one worker through the model, in which nothing random depends on the worker."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ziggurat.config import RunConfig
from ziggurat.data.batch import Microbatch
from ziggurat.models.images import normalize_images
from ziggurat.models.vision import VisionModel
from ziggurat.nonfinite import bad_gradient
from ziggurat.plans.mesh import Mesh
from ziggurat.tasks.task import Task


def seed_everything(*key: int | tuple[int, ...]) -> None:
    """Key every random choice of the model (dropout, drop path) and of libraries by `key`.

    Example:
        >>> seed_everything(7, (0, 3))
        >>> first = torch.rand(1)
        >>> seed_everything(7, (0, 3))
        >>> bool(first == torch.rand(1))
        True
    """
    words = [word for part in key for word in (part if isinstance(part, tuple) else (part,))]
    state = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    torch.manual_seed(state)
    random.seed(state)
    np.random.seed(state % (1 << 32))


def forward(model: VisionModel, microbatch: Microbatch, config: RunConfig, mesh: Mesh) -> Any:
    """Return the model's outputs; what is random in it depends on the samples only."""
    seed_everything(config.seed, *((id.epoch, id.sample) for id in microbatch.ids))
    images = normalize_images(microbatch.images_BCHW, microbatch.own_sizes, model.mean, model.std)
    if config.train.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=config.dtype == "bf16"):
        return model(mesh.spread(images, microbatch.part))


def output_sums(
    model: VisionModel,
    task: Task,
    microbatches: list[Microbatch],
    assignments: list[Any],
    config: RunConfig,
    mesh: Mesh,
) -> list[Tensor]:
    """Run the model without gradients; running statistics are taken from the second pass, in `parallel.leaf`."""
    with torch.no_grad():
        return [
            task.output_sums(forward(model, microbatch, config, mesh), assignment)
            for microbatch, assignment in zip(microbatches, assignments, strict=True)
        ]


def bad_gradients(
    model: VisionModel,
    task: Task,
    microbatches: list[Microbatch],
    assignments: list[Any],
    totals: Tensor,
    config: RunConfig,
    mesh: Mesh,
) -> Callable[[], dict[int, str]]:
    """Return what finds the first bad parameter of each microbatch: it computes this worker's once more."""

    def find() -> dict[int, str]:
        found: dict[int, str] = {}
        for microbatch, assignment in zip(microbatches, assignments, strict=True):
            outputs = forward(model, microbatch, config, mesh)
            loss = torch.stack(list(task.loss_shares(outputs, assignment, totals).values())).sum()
            name = bad_gradient(model, loss)
            if name is not None:
                found[microbatch.index] = name
        return {index: name for part in mesh.workers.gather(found) for index, name in part.items()}

    return find
