"""Level parallelism: joins a model to the workers of the lp axis, which compute its parallel branches.

Every worker has all weights. It leaves the part of each gradient that comes from its own calls, and the parts of all
workers that compute the same images (lp and sp) are added up after the canonical sum over dp, in a fixed order. So
weights, average and optimizer stay the same bits on every worker, and the state of a run is whole on each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ziggurat.parallel.branches.branches import Branches, Pieces
from ziggurat.parallel.collectives.pieces import PartSum
from ziggurat.parallel.collectives.running_statistics import RunningStatistics
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.costs import Costs
from ziggurat.parallel.graph.trace import Tracer
from ziggurat.parallel.pipeline.pipeline import Work
from ziggurat.parallel.runtime.heartbeat import waiting
from ziggurat.strategies.data_parallel import DataParallel
from ziggurat.strategies.mesh import Mesh


class LevelStatistics(RunningStatistics):
    """Running statistics of batch norms that lie on several workers.

    Args:
        model: With all its layers.
        workers: Of the dp axis.
        levels: Of the lp axis.
    """

    def __init__(self, model: nn.Module, workers: Workers, levels: Workers) -> None:
        super().__init__(model, workers)
        self.levels = levels
        names = {id(buffer): name for name, buffer in model.named_buffers()}
        self.names = [names[id(buffer)] for buffer in self.buffers]

    def own(self, pieces: Pieces) -> Tensor:
        """Return whether each statistic is this worker's, of images of a size; what no worker calls is the first's."""
        mine = pieces.states_of(self.levels.rank)
        others = set().union(*(pieces.states_of(w) for w in range(self.levels.size))) - mine
        flags = [name in mine or (self.levels.is_first and name not in others) for name in self.names]
        return torch.tensor(flags).repeat_interleave(torch.tensor(self.sizes))

    def clear_foreign(self, pieces: Pieces) -> None:
        """Leave zeros in the newest leaf where another worker has the statistics."""
        if self.layers:
            leaf = self.leaves[-1]
            self.leaves[-1] = leaf.masked_fill(~self.own(pieces).to(leaf.device), 0)

    def finish(self, num_leaves: int) -> None:
        """Combine the running statistics of all microbatches.

        Communication: one all-reduce over lp of those of this worker's microbatches (to a number, zeros are added);
        then as `RunningStatistics.finish`.
        """
        if self.layers and self.leaves:
            stacked = torch.stack(self.leaves)
            with waiting():
                dist.all_reduce(stacked, group=self.levels.group)
            self.leaves = list(stacked)
        super().finish(num_leaves)


class LevelParallel(DataParallel):
    """Joins a model to the workers of a mesh with an lp axis.

    One step, of `num_leaves` microbatches::

        parallel.start(num_leaves)
        parallel.step(work)                      # work speaks of this place's microbatches, parallel.mine
        parallel.finish_gradients()
        parallel.finish_statistics()

    Args:
        model: Its weights are made those of the first worker.
        tracer: Of the model.
        costs: Of its calls, the same on every worker.
        mesh: All workers.

    Attributes:
        own: Names of this worker's parameters and buffers: all of them.
        pipeline: Runs the branches.
    """

    def __init__(self, model: nn.Module, tracer: Tracer, costs: Costs, mesh: Mesh) -> None:
        mesh.workers.broadcast(list(model.state_dict().values()))
        super().__init__(model, mesh.dp, mesh.sp)
        self.mesh = mesh
        self.own = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
        self.pipeline = Branches(model, tracer, costs, mesh.lp, mesh.spatial)
        self.level_statistics = LevelStatistics(model, mesh.dp, mesh.lp)
        self.statistics = self.level_statistics
        self.sum_of_parts = PartSum(mesh.sharing)

    def step(self, work: Work) -> tuple[dict[int, Any], dict[int, Tensor]]:
        """Run forward and backward of this place's microbatches; see `Branches.step`."""

        @contextmanager
        def leaf(stage: int, index: int) -> Iterator[None]:
            with self.leaf(self.mine[index]), work.leaf(stage, index):
                yield

        given = (work.count, work.images, work.loss, work.begin, work.after_forward, leaf, work.compute)
        return self.pipeline.step(Work(*given))

    @contextmanager
    def leaf(self, index: int) -> Iterator[None]:
        """Take what the backward passes of all pieces of microbatch `index`, run inside, leave behind."""
        yield
        self.gradients.take_present(index)
        self.statistics.take_leaf()
        assert self.pipeline.newest is not None
        self.level_statistics.clear_foreign(self.pipeline.newest)

    def finish_gradients(self) -> None:
        """Set every ``parameter.grad`` to that of the global batch.

        Communication:
            The canonical sum over dp; then the sum of all gradients over lp and sp, see `PartSum`.
        """
        self.gradients.finish(self.sum_of_parts)
