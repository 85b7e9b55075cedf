"""The step of `step`, under a plan whose wide layers are split over workers; what they leave behind is put together."""

from __future__ import annotations

import warnings
from dataclasses import replace

from torch import nn

from ziggurat.parallel.graph.trace import spec_of
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.tensor_parallel import TensorParallel
from ziggurat.verify.precision import KeepFloat64
from ziggurat.verify.step import Step, Trial, run_step


def split_model(model: nn.Module, trial: Trial, mesh: Mesh) -> TensorParallel:
    """Split a model over the tp axis, in place.

    Raises:
        CannotCut: If the network cannot be recorded.
    """
    model.train()
    with KeepFloat64(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the network's own
        return TensorParallel(model, spec_of(trial.pieces()[0]), mesh.tp, trial.config.tensor.min_width)


def run_tensor_step(
    parallel: TensorParallel, model: nn.Module, trial: Trial, mesh: Mesh, count_bytes: bool = False
) -> Step:
    """Take one step as `run_step` does, with a model that is split.

    Args:
        parallel: Has split the model.
        model: Its gradients and buffers are changed.
        trial: The step.
        mesh: The workers.
        count_bytes: Whether to count the bytes of tensors, which slows the step.

    Placement:
        Outputs, losses and, after, all gradients and buffers are whole on every worker.
    """
    before = parallel.axis.bytes_sent
    step = run_step(model, trial, mesh, count_bytes)
    sent = parallel.axis.bytes_sent - before
    return replace(
        step,
        gradients=parallel.whole(step.gradients),
        buffers=parallel.whole(step.buffers),
        bytes_sent=sent,
    )
