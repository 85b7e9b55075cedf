"""How the microbatches of a data set go into a model: normalized, on the worker's device, with what is random keyed by samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ziggurat.config import RunConfig
from ziggurat.data.batch import Microbatch
from ziggurat.models.images import Normalization
from ziggurat.models.vision import VisionModel
from ziggurat.parallel.graph.generators import seed_everything
from ziggurat.parallel.runtime.heartbeat import phase
from ziggurat.strategies.mesh import Mesh


def autocast(device: torch.device, config: RunConfig) -> torch.autocast:
    """Return a context in which the model computes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bf16")


@dataclass(frozen=True)
class SampleFeed:
    """The microbatches of a run.

    Attributes:
        model: Says how images are normalized.
        mesh: Says which part of images is this worker's.
        config: Of the run.
        step: Returns the number of the present step, from 0.
    """

    model: VisionModel
    mesh: Mesh
    config: RunConfig
    step: Callable[[], int]

    def images(self, batch: Microbatch) -> Tensor:
        """Return a microbatch's images as the model sees them."""
        normalize = Normalization.of(self.config.data, self.model)
        images = normalize(batch.images_BCHW, batch.own_sizes)
        if self.config.train.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.mesh.spread(images, batch.part)

    def seed(self, batch: Microbatch) -> None:
        """Let what is random depend on the samples only."""
        seed_everything(self.config.seed, *(id.key for id in batch.ids))

    def announce(self, name: str, batch: Microbatch) -> None:
        """Note in the worker's heartbeat what it begins."""
        phase(name, self.step(), batch.index, [(id.epoch, id.sample) for id in batch.ids])

    def compute(self) -> torch.autocast:
        """Return a context in which the model computes: autocast."""
        return autocast(self.mesh.workers.device, self.config)
