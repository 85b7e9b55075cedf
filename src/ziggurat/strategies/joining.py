"""Chooses how a run's model is joined to the workers of its plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ziggurat.config import RunConfig
from ziggurat.parallel.runtime.allocator import give_back_freed_memory
from ziggurat.strategies.costs.branch_costs import COSTS
from ziggurat.strategies.costs.cuts import CUTS
from ziggurat.strategies.data_training import DataTraining
from ziggurat.strategies.level_training import LevelTraining
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.pipeline_training import Compute, PipelineTraining, image_spec
from ziggurat.strategies.sharded_training import ShardedTraining
from ziggurat.strategies.tensor_training import TensorTraining
from ziggurat.strategies.training import Training, Whole


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
    train, side = config.train, config.data.crop
    spec = image_spec((train.batch_size // train.microbatches, 3, side, side), train.channels_last, mesh)
    joined: Training
    if mesh.is_sharded:
        joined = ShardedTraining(state, make_optimizer, mesh, config, compute)
    elif mesh.tp.size > 1:
        joined = TensorTraining(state, make_optimizer, spec, mesh, config)
    elif mesh.lp.size > 1:
        joined = LevelTraining(state, spec, mesh, compute, folder / COSTS)
    elif mesh.pp.size > 1:
        kept = folder / CUTS
        joined = PipelineTraining(
            state, make_optimizer, spec, mesh, config.pipeline, train.microbatches, compute, kept
        )
    else:
        joined = DataTraining(state, mesh)
    give_back_freed_memory()  # of what other workers keep
    return joined
