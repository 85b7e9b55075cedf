"""The passes of a step through the model, in which nothing random depends on the worker.

A worker takes its microbatches one after the other; a pipeline of workers takes them through its stages.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ziggurat.config import RunConfig
from ziggurat.data.batch import Microbatch
from ziggurat.models.images import normalize_images
from ziggurat.models.vision import VisionModel
from ziggurat.parallel.runtime.heartbeat import phase
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.training import PassWork, Training
from ziggurat.tasks.base import Task


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


def autocast(device: torch.device, config: RunConfig) -> torch.autocast:
    """Return a context in which the model computes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bf16")


@dataclass(frozen=True)
class Passes:
    """The passes of one step.

    Attributes:
        model: The model.
        task: Knows the loss.
        parallel: How the model is spread over workers.
        step: Number of the step, from 0.
        microbatches: This worker's, or those of its pipeline.
        assignments: What the task has assigned of the labels of each.
        config: Of the run.
        mesh: All workers.
    """

    model: VisionModel
    task: Task[Any, Any]
    parallel: Training
    step: int
    microbatches: list[Microbatch]
    assignments: list[Any]
    config: RunConfig
    mesh: Mesh

    def output_sums(self) -> list[Tensor]:
        """Run the model without gradients; running statistics are taken from the second pass.

        Returns:
            Of each microbatch, what the task sums over the outputs of all.
        """
        return self.parallel.output_leaves(self._work(self._sums))

    def losses(self, totals: Tensor) -> list[Tensor]:
        """Run forward and backward of each microbatch, which gives one leaf: of the gradient, of the running statistics.

        Args:
            totals: What the loss is divided by.

        Returns:
            The microbatch's share of each term of the loss, float64, on every worker that shares the microbatch.
        """
        return self.parallel.loss_leaves(self._work(partial(self._shares, totals)))

    def bad_gradients(self, totals: Tensor) -> dict[int, str]:
        """Return the first parameter of each microbatch whose gradient is not finite, over all workers."""
        found = self.parallel.bad_gradients(self._work(partial(self._shares, totals)))
        return {index: name for part in self.mesh.workers.gather(found) for index, name in part.items()}

    def _work(self, vector: Callable[[Any, int], Tensor]) -> PassWork:
        compute = partial(autocast, self.mesh.workers.device, self.config)
        return PassWork(len(self.microbatches), self._images, self._seed, vector, self._announce, compute)

    def _announce(self, name: str, index: int) -> None:
        microbatch = self.microbatches[index]
        ids = [(id.epoch, id.sample) for id in microbatch.ids]
        phase(name, self.step, microbatch.index, ids)

    def _seed(self, index: int) -> None:
        """Let what is random depend on the samples only."""
        ids = self.microbatches[index].ids
        seed_everything(self.config.seed, *((id.epoch, id.sample) for id in ids))

    def _images(self, index: int) -> Tensor:
        """Return a microbatch's images as the model sees them."""
        microbatch = self.microbatches[index]
        images = normalize_images(
            microbatch.images_BCHW, microbatch.own_sizes, self.model.mean, self.model.std
        )
        if self.config.train.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        spread: Tensor = self.mesh.spread(images, microbatch.part)
        return spread

    def _sums(self, outputs: Any, index: int) -> Tensor:
        return self.task.output_sums(outputs, self.assignments[index])

    def _shares(self, totals: Tensor, outputs: Any, index: int) -> Tensor:
        """Return a microbatch's share of each term of the loss, in the order of ``task.term_names``."""
        shares = self.task.loss_shares(outputs, self.assignments[index], totals)
        return torch.stack(list(shares.values()))
