"""The step whose messages the benchmarks of cables count: of a data parallel plan, without the optimizer's."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ziggurat.config import RunConfig
from ziggurat.models.build import build_model
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.graph import tensors_in
from ziggurat.parallel.graph.trace import spec_of
from ziggurat.strategies.base import Setting
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.running import Microbatches
from ziggurat.strategies.state import TrainState


class Steps:
    """Steps of one network.

    Args:
        config: Names the network, and what gradients travel as.
        images: Of each microbatch.
        workers: Of the plan.
        plan: Along dp.
        hierarchy: How the workers meet.
        shares_memory: Whether workers of one kernel exchange gradients through its memory; machines do not.
    """

    def __init__(
        self, config: RunConfig, images: list[Tensor], workers: Workers, plan: str, hierarchy: str, shares_memory: bool
    ) -> None:  # fmt: skip
        torch.manual_seed(0)
        model = build_model(config.model, 10).train()
        self.images = images
        state = TrainState.start(model, torch.optim.SGD(model.parameters()))
        setting = Setting(spec_of(images[0]), config, len(images), nullcontext)
        self.parallel = Parallel(state, make_mesh(workers, plan, hierarchy), setting)
        for gradients in self.parallel.sums.gradients if not shares_memory else ():
            gradients.shared_roots = None

    def __call__(self) -> str:
        """Take a step, and return a hash of the gradient."""
        parallel = self.parallel
        parallel.start(len(self.images))
        mine = [self.images[index] for index in parallel.mine]
        parallel.losses(Microbatches(len(mine), mine.__getitem__, loss_of, nullcontext))
        parallel.finish_gradients()
        parallel.finish_statistics()
        digest = hashlib.sha256()
        for parameter in parallel.state.model.parameters():
            assert parameter.grad is not None
            digest.update(parameter.grad.numpy().tobytes())
        return digest.hexdigest()


def loss_of(outputs: Any, index: int) -> Tensor:
    """Return a loss that costs next to nothing: the mean square of every output."""
    total: Tensor = sum(tensor.float().square().mean() for tensor in tensors_in(outputs))
    return total


def noise(count: int, side: int) -> list[Tensor]:
    """Return microbatches of two images, the same on every worker."""
    return [
        torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed)) for seed in range(count)
    ]
