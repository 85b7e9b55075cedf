"""Chooses how a run's model is joined to the workers of its plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ziggurat.config import RunConfig
from ziggurat.plans.data_training import DataTraining
from ziggurat.plans.kept_costs import COSTS
from ziggurat.plans.kept_cut import CUTS
from ziggurat.plans.level_training import LevelTraining
from ziggurat.plans.mesh import Mesh
from ziggurat.plans.pipeline_training import Compute, PipelineTraining, image_spec
from ziggurat.plans.sharded_training import ShardedTraining
from ziggurat.plans.tensor_training import TensorTraining
from ziggurat.plans.training import Training, Whole


def join_training(
    state: Whole,
    mesh: Mesh,
    config: RunConfig,
    make_optimizer: Callable[[Any], torch.optim.Optimizer],
    compute: Compute,
    folder: Path,
) -> Training:
    """Join a run's training state to the workers.

    Args:
        state: As one worker makes or resumes it.
        mesh: All workers; they call this together.
        config: Of the run.
        make_optimizer: Makes one of a whole model.
        compute: A context in which the model computes.
        folder: Of the run.
    """
    if mesh.is_sharded:
        return ShardedTraining(state, make_optimizer, mesh, config, compute)
    train, side = config.train, config.data.crop
    spec = image_spec((train.batch_size // train.microbatches, 3, side, side), train.channels_last, mesh)
    if mesh.tp.size > 1:
        return TensorTraining(state, make_optimizer, spec, mesh, config)
    if mesh.lp.size > 1:
        return LevelTraining(state, spec, mesh, compute, folder / COSTS)
    if mesh.pp.size == 1:
        return DataTraining(state, mesh)
    return PipelineTraining(
        state, make_optimizer, spec, mesh, config.pipeline, train.microbatches, compute, folder / CUTS
    )
