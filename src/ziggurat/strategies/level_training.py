"""Training by branches: a run's model, average and optimizer, whole on every worker of the lp axis.

agree_on_costs       the first worker measures every call, or a run that goes on has kept them; all agree
place                each size of images is placed by these costs, the same on every worker
step, step, ...      a worker computes its own calls; gradients and statistics are added up, and are everywhere the same bits
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.parallel.branches.branches import Branches
from ziggurat.parallel.graph.costs import Costs
from ziggurat.parallel.graph.trace import ImageSpec, Tracer
from ziggurat.parallel.pipeline.pipeline import Work
from ziggurat.strategies.costs.branch_costs import agree_on_costs
from ziggurat.strategies.level_parallel import LevelParallel
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.training import PassWork, Training, Whole, bad_gradients_of_each, first_not_finite

Compute = Callable[[], AbstractContextManager[Any]]


class LevelTraining(LevelParallel, Training):
    """A run's training state, by branches.

    Args:
        state: Its weights are made those of the first worker.
        spec: Of the images of a microbatch.
        mesh: All workers; they call this together.
        compute: A context in which the model computes: autocast.
        file: Where the costs of the calls are kept.

    Attributes:
        placement: Of images of this size.

    Raises:
        UserError: On all workers: `NoBranches`, or `CannotCut`.

    Placement:
        Every worker has all weights, the whole average and the whole optimizer; it computes its own calls.
    """

    looks_at_each = True

    def __init__(self, state: Whole, spec: ImageSpec, mesh: Mesh, compute: Compute, file: Path) -> None:
        model, average, _ = state
        tracer, costs = _tracer_and_costs(model, spec, mesh, compute, file)
        super().__init__(model, tracer, costs, mesh)
        self.state = state
        with compute():
            self.placement = self.pipeline.pieces_of(spec).placement
        mesh.pipelines[model] = self.pipeline
        if average is not model:
            tracer = Tracer(average, mesh.workers.device)
            mesh.pipelines[average] = Branches(average, tracer, costs, mesh.lp, mesh.spatial)

    def loss_leaves(self, work: PassWork) -> list[Tensor]:
        """Run forward and backward of this place's microbatches.

        Args:
            work: Its images are asked for on the first worker of the lp axis, its vectors on that of the last call.

        Returns:
            The vector of each microbatch, float64, on every worker of the lp axis.

        Communication:
            As `Branches.step`; then one gather of the vectors over lp.
        """
        terms: dict[int, Tensor] = {}

        def begin(index: int) -> None:
            work.announce("forward", index)
            work.seed(index)

        def loss(outputs: Any, index: int) -> Tensor:
            shares = work.vector(outputs, index)
            terms[index] = shares.detach().double()
            return shares.sum()

        @contextmanager
        def leaf(stage: int, index: int) -> Iterator[None]:
            work.announce("backward", index)
            yield

        self.step(Work(work.count, work.images, loss, begin, leaf=leaf, compute=work.compute))
        return self._of_all(terms)

    def output_leaves(self, work: PassWork) -> list[Tensor]:
        """Run forward alone, and return the vector of each microbatch on every worker of the lp axis."""
        outputs = self.pipeline.infer(Work(work.count, work.images, None, work.seed, compute=work.compute))
        with torch.no_grad():
            return self._of_all({index: work.vector(one, index) for index, one in outputs.items()})

    def bad_gradients(self, work: PassWork) -> dict[int, str]:
        """Return the first parameter of each microbatch whose gradient is not finite: every worker computes all calls."""
        return bad_gradients_of_each(self.model, self.mine, work)

    def bad_gradient(self) -> str:
        """Return the first parameter whose gradient is not finite; or nothing."""
        return first_not_finite((name, parameter.grad) for name, parameter in self.names.items())

    def workers_of_loss(self, place: int) -> range:
        """Return the workers that compute a microbatch together: the size of its images says which of them has the loss."""
        num_each = self.mesh.sharing.size
        return range(place * num_each, (place + 1) * num_each)

    def describe(self) -> list[str]:
        """Return a line for each worker's branches, and one for the bound of the speed-up."""
        placement, total = self.placement, sum(self.placement.seconds)
        calls = [placement.worker_of.count(worker) for worker in range(self.mesh.lp.size)]
        lines = [
            f"branches on worker {worker} of lp: {calls[worker]} of {sum(calls)} calls, {seconds * 1000:.1f} ms of "
            f"{total * 1000:.1f} ms of a microbatch's forward"
            for worker, seconds in enumerate(placement.seconds)
        ]
        return [
            *lines,
            f"lp alone is at most {placement.bound:.2f} times as fast as one worker (by these times, without messages)",
        ]

    def _of_all(self, mine: dict[int, Tensor]) -> list[Tensor]:
        """Return what the workers of the last calls have, by microbatch."""
        found: dict[int, Tensor] = {}
        for part in self.mesh.lp.gather({index: vector.cpu() for index, vector in mine.items()}):
            found |= part
        return [found[index].to(self.workers.device) for index in sorted(found)]


def place_for_inference(model: nn.Module, spec: ImageSpec, mesh: Mesh, compute: Compute) -> None:
    """Place a model's calls for evaluation or prediction: afterwards the mesh runs it by branches.

    Args:
        model: With all its weights, the same on every worker.
        spec: Of a batch of tiles.
        mesh: All workers; they call this together.
        compute: A context in which the model computes.

    Raises:
        UserError: On all workers: `NoBranches`, or `CannotCut`.
    """
    tracer, costs = _tracer_and_costs(model, spec, mesh, compute)
    mesh.pipelines[model] = Branches(model, tracer, costs, mesh.lp, mesh.spatial)


def _tracer_and_costs(
    model: nn.Module, spec: ImageSpec, mesh: Mesh, compute: Compute, file: Path | None = None
) -> tuple[Tracer, Costs]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the network's own
        tracer = Tracer(model, mesh.workers.device)
        return tracer, agree_on_costs(model, tracer, spec, mesh, compute, file)
