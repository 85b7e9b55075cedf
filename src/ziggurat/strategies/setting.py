"""What strategies know of a run: of its microbatches, or of batches of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ziggurat.config import RunConfig, bands_of
from ziggurat.parallel.graph.trace import ImageSpec
from ziggurat.strategies.base import Compute, Setting
from ziggurat.strategies.costs.decisions import Decisions
from ziggurat.strategies.mesh import Mesh


def image_spec(shape: Sequence[int], channels_last: bool, mesh: Mesh) -> ImageSpec:
    """Return what a network's graph depends on, of the images of a microbatch or of a batch of tiles."""
    images = torch.empty(tuple(shape), device="meta")
    if channels_last and mesh.spatial is None:
        images = images.contiguous(memory_format=torch.channels_last)
    return ImageSpec(tuple(shape), tuple(images.stride()), images.dtype)


def run_setting(
    config: RunConfig, mesh: Mesh, compute: Compute, decisions: Decisions, folder: Path
) -> Setting:
    """Return the setting of a run's training.

    Args:
        config: Of the run.
        mesh: All workers.
        compute: A context in which the model computes.
        decisions: Of the run's state; what is decided now is added.
        folder: Of the run: measurements are kept there.
    """
    train, side = config.train, config.data.crop
    shape = (train.batch_size // train.microbatches, bands_of(config.model), side, side)
    spec = image_spec(shape, train.channels_last, mesh)
    return Setting(spec, config, train.microbatches, compute, decisions, folder)
