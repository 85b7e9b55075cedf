"""Pipeline parallelism: joins a model to the workers of the pp axis, and each stage to those of dp and sp.

What a stage leaves behind of a microbatch is a leaf, as everywhere: its gradients are added by the canonical sum over the
dp axis, its batch norms' statistics are combined in canonical order. A parameter that stages on several workers use is on
each of them, and its gradient is the sum of theirs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.config import PipelineConfig
from ziggurat.parallel.collectives.gradients import GradientSum
from ziggurat.parallel.collectives.pieces import add_up_in_pieces
from ziggurat.parallel.collectives.running_statistics import RunningStatistics
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.stages import state_names
from ziggurat.parallel.graph.trace import NORMS, ImageSpec, Tracer
from ziggurat.parallel.pipeline.pipeline import Pipeline, Work
from ziggurat.strategies.leaves import Leaves
from ziggurat.strategies.mesh import Mesh


class PipelineParallel(Leaves):
    """Joins a model to the workers of a mesh with a pp axis.

    One step, of `num_leaves` microbatches::

        parallel.start(num_leaves)
        parallel.step(work)                      # work speaks of this pipeline's microbatches, parallel.mine
        parallel.finish_gradients()              # parameter.grad of this worker's stages
        parallel.finish_statistics()

    Args:
        model: With the weights of this worker's stages at least; the others' are dropped.
        tracer: Of the model.
        cut: Names of the layers at which new stages start.
        spec: Of the images of any microbatch.
        mesh: All workers.
        config: The schedule, and whether activations are computed again.

    Attributes:
        own: Names of this worker's parameters and buffers.
        counted: Those that no worker before it has.
        pipeline: The pipeline.

    Placement:
        A stage's weights are on its workers only; elsewhere they are tensors without memory.
    """

    def __init__(
        self,
        model: nn.Module,
        tracer: Tracer,
        cut: Sequence[str],
        spec: ImageSpec,
        mesh: Mesh,
        config: PipelineConfig,
    ) -> None:
        super().__init__(mesh.dp, mesh.sp)
        self.mesh, self.model = mesh, model

        def join() -> Pipeline:
            again = config.checkpoint == "stage"
            return Pipeline(model, tracer, cut, mesh.pp, config.schedule, mesh.spatial, again)

        pipeline = join()
        _, stages = pipeline.stages_of(spec)
        names = state_names(stages, model)
        self.of_stage = {number: names[number] for number in pipeline.mine}
        self.own = set().union(*self.of_stage.values())
        before = set().union(*(names[n] for n in range(len(names)) if n % mesh.pp.size < mesh.pp.rank))
        self.counted = self.own - before
        self.shared = _names_of_several(names, mesh.pp.size)
        drop_states(model, self.own)
        self.pipeline = join()
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        called = [{call.layer for call in stage.calls if call.function is None} for stage in stages]
        called[-1] |= _norms_not_called(model, set().union(*called))
        layers = {number: called[number] for number in self.pipeline.mine}
        self.gradients = {
            number: GradientSum([p for n, p in self.parameters.items() if n in own], mesh.dp)
            for number, own in self.of_stage.items()
        }
        self.statistics = {
            number: RunningStatistics(_container(model, names), mesh.dp) for number, names in layers.items()
        }

    def start(self, num_leaves: int) -> None:
        """Begin a step."""
        self.begin(num_leaves)
        for gradients in self.gradients.values():
            gradients.start(num_leaves)
        for statistics in self.statistics.values():
            statistics.start()

    def step(self, work: Work) -> tuple[dict[int, Any], dict[int, Tensor]]:
        """Run forward and backward of this pipeline's microbatches; see `Pipeline.step`."""

        def after_forward(stage: int, index: int) -> None:
            self.statistics[stage].take_leaf()
            work.after_forward(stage, index)

        @contextmanager
        def leaf(stage: int, index: int) -> Iterator[None]:
            with self.gradients[stage].leaf(self.mine[index]), work.leaf(stage, index):
                yield

        return self.pipeline.step(dataclasses.replace(work, after_forward=after_forward, leaf=leaf))

    def finish_gradients(self) -> None:
        """Set every ``parameter.grad`` of this worker's stages to that of the global batch.

        Communication:
            The canonical sum over dp; all-reduces over sp; all-reduces over pp of what several workers use.
        """
        totals: dict[str, Tensor] = {}
        for number in sorted(self.gradients, reverse=True):
            self.gradients[number].finish()
            for name in sorted(self.of_stage[number] & self.parameters.keys()):
                gradient = self.parameters[name].grad
                assert gradient is not None
                totals[name] = totals[name] + gradient if name in totals else gradient
        self._add_up(totals, sorted(totals), self.mesh.sp)
        for name in self.shared & self.parameters.keys():
            if name not in totals:
                totals[name] = torch.zeros_like(self.parameters[name], device=self.workers.device)
        self._add_up(totals, sorted(self.shared & self.parameters.keys()), self.mesh.pp)
        for name, parameter in self.parameters.items():
            parameter.grad = totals[name] if name in self.own else None

    def gradient_norm(self) -> Tensor:
        """Return the norm of the gradient of all stages' parameters, the same on every worker.

        Communication:
            One all-reduce of a number over pp.
        """
        counted = [p.grad for n, p in self.parameters.items() if n in self.counted and p.grad is not None]
        square = nn.utils.get_total_norm(counted).double().square().to(self.workers.device)
        return self.mesh.pp.add_up(square).sqrt().float()

    @staticmethod
    def _add_up(tensors: dict[str, Tensor], names: Sequence[str], workers: Workers) -> None:
        if workers.size > 1:
            add_up_in_pieces((tensors[name] for name in names), workers.add_up)

    def finish_statistics(self) -> None:
        """Combine the running statistics of all microbatches."""
        for number in sorted(self.statistics, reverse=True):
            self.statistics[number].finish(self.num_leaves)

    def abandon(self) -> None:
        """Undo what a step that failed has done to the running statistics."""
        for statistics in self.statistics.values():
            statistics.abandon()

    def close(self) -> None:
        """Remove the hooks from the model."""
        for gradients in self.gradients.values():
            gradients.close()


def drop_states(model: nn.Module, kept: set[str]) -> None:
    """Replace the parameters and buffers that are not kept by tensors without memory; ties stay."""
    hollow: dict[int, Any] = {}
    names = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
    for module in model.modules():
        for places in (module._parameters, module._buffers):
            for key, tensor in places.items():
                if tensor is None or names[id(tensor)] in kept:
                    continue
                if id(tensor) not in hollow:
                    empty = torch.empty_like(tensor, device="meta")
                    is_parameter = isinstance(tensor, nn.Parameter)
                    hollow[id(tensor)] = (
                        (nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty),
                        tensor,
                    )
                places[key] = hollow[id(tensor)][0]


def _norms_not_called(model: nn.Module, called: set[str]) -> set[str]:
    """Return the batch norms that no stage calls (of an encoder's last blocks, say): they count steps all the same."""
    inside = tuple(f"{name}." for name in called if name)
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, NORMS) and name not in called and not name.startswith(inside)
    }


def _names_of_several(names: Sequence[set[str]], num_workers: int) -> set[str]:
    """Return the states that stages on several workers use."""
    of_worker = [set().union(*names[worker::num_workers]) for worker in range(num_workers)]
    return {name for one, other in itertools.combinations(of_worker, 2) for name in one & other}


def _container(model: nn.Module, names: set[str]) -> nn.Module:
    """Return a module that holds some layers of a model."""
    container = nn.Module()
    for name in sorted(names):
        if name:
            container.add_module(name.replace(".", "/"), model.get_submodule(name))
    return container
