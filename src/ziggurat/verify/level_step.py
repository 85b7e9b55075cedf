"""The step of `step`, under a plan whose branches lie on different workers: each holds its part of what is compared."""

from __future__ import annotations

import time
import warnings
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.parallel.levels.branches import Branches
from ziggurat.parallel.levels.placement import Placement
from ziggurat.parallel.pipeline.record import Skeleton, spec_of
from ziggurat.parallel.running_statistics import RunningStatistics
from ziggurat.parallel.workers import Workers
from ziggurat.plans.level_parallel import choose_placement, sum_gradients
from ziggurat.plans.mesh import Mesh
from ziggurat.verify.losses import make_objective, tensors_of
from ziggurat.verify.memory import PeakBytes
from ziggurat.verify.precision import KeepFloat64
from ziggurat.verify.step import Piece, Step, Trial, detached, global_totals


def place_model(model: nn.Module, trial: Trial, mesh: Mesh) -> Placement:
    """Choose where each call of a model is computed; all workers call this together."""
    model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the network's own
        return choose_placement(model, Skeleton(model), spec_of(trial.pieces()[0]), mesh.lp, KeepFloat64())


class LevelStep:
    """Takes steps as `run_step` does, by branches.

    Args:
        placement: Where each call is computed; of images of the first microbatch's size.
    """

    def __init__(self, placement: Placement) -> None:
        self.placement = placement

    def __call__(self, model: nn.Module, trial: Trial, mesh: Mesh, count_bytes: bool = False) -> Step:
        """Take one step.

        Args:
            model: Its gradients and buffers are changed.
            trial: The step.
            mesh: The workers; all of them call this.
            count_bytes: Whether to count the bytes of tensors, which slows the step.

        Placement:
            Outputs and losses are on the worker of the last call, the input's gradient on the first. A worker has the
            gradients and buffers of what it uses.
        """
        model.train()
        model.zero_grad(set_to_none=True)
        images = trial.pieces()
        objective = make_objective(
            model, trial.images.shape, [len(i) for i in images], trial.config, trial.seed, mesh
        )
        branches, skeleton = Branches(model, self.placement, mesh.lp), Skeleton(model)
        statistics = RunningStatistics(model, Workers()) if len(images) > 1 else None
        memory = PeakBytes([*model.parameters(), *model.buffers()]) if count_bytes else nullcontext()
        pieces, own = {}, set[str]()
        begin = time.perf_counter()
        with memory, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the network's own, once for each worker
            if statistics:
                statistics.start()
            totals = global_totals(objective, len(images), mesh)
            for index, part in enumerate(images):
                torch.manual_seed(trial.seed + index)
                leaf = part.clone().requires_grad_()

                def loss(outputs: Any, index: int = index) -> Tensor:
                    return objective.loss(outputs, index, totals)

                with KeepFloat64():
                    graph = skeleton.record(spec_of(part))
                    results = branches.run(graph, leaf, loss)
                own |= branches.names_of(graph, mesh.lp.rank)
                pieces[index] = _piece(results.outputs, results.loss, leaf if mesh.lp.is_first else None)
                if statistics:
                    statistics.take_leaf()
            sum_gradients(model, own, mesh.lp)
            if statistics:
                statistics.finish(len(images))
        seconds = time.perf_counter() - begin
        return Step(
            pieces=pieces,
            gradients={
                name: torch.zeros_like(p) if p.grad is None else p.grad
                for name, p in model.named_parameters()
                if name in own
            },
            buffers={n: buffer.detach().clone() for n, buffer in model.named_buffers() if n in own},
            seconds=seconds,
            peak_bytes=memory.peak if isinstance(memory, PeakBytes) else 0,
            bytes_sent=branches.post.bytes_sent,
        )


def _piece(outputs: Any, loss: Tensor | None, leaf: Tensor | None) -> Piece:
    gradient = None if leaf is None else torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    kept = None if loss is None else [detached(output) for output in tensors_of(outputs)]
    return Piece(kept, loss, gradient)
