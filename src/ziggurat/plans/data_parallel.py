"""Data parallelism: the microbatches of a step are spread over workers, and their sums do not depend on how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ziggurat.parallel.canonical import gather_leaves, partition, sum_leaves
from ziggurat.parallel.gradients import GradientSum
from ziggurat.parallel.running_statistics import RunningStatistics
from ziggurat.parallel.workers import Workers


class DataParallel:
    """Joins a model to the workers of the dp axis.

    One step, of `num_leaves` microbatches::

        parallel.start(num_leaves)
        for index in parallel.mine:              # this worker's microbatches
            with parallel.leaf(index):
                loss_share(index).backward()
        parallel.finish_gradients()              # parameter.grad: the canonical sum over all microbatches
        parallel.finish_statistics()             # running statistics of batch norm: in canonical order

    Args:
        model: Its weights are made those of the first worker.
        workers: The workers of the dp axis.
    """

    def __init__(self, model: nn.Module, workers: Workers) -> None:
        self.workers = workers
        workers.copy_from_first(list(model.state_dict().values()))
        self.gradients = GradientSum(model.parameters(), workers)
        self.statistics = RunningStatistics(model, workers)

    def leaves_of_worker(self, num_leaves: int, rank: int | None = None) -> range:
        """Return the microbatches of a worker (this one by default) in a step that has `num_leaves`."""
        return partition(num_leaves, self.workers.size)[self.workers.rank if rank is None else rank]

    def start(self, num_leaves: int) -> None:
        """Begin a step."""
        self.num_leaves = num_leaves
        self.mine = self.leaves_of_worker(num_leaves)
        self.gradients.start(num_leaves)
        self.statistics.start()

    @contextmanager
    def leaf(self, index: int) -> Iterator[None]:
        """Take what forward and backward of microbatch `index`, run inside, leave behind."""
        with self.gradients.leaf(index):
            yield
        self.statistics.take_leaf()

    def gather(self, mine: Sequence[Tensor], width: int) -> Tensor:
        """Return a vector of each microbatch of the step, from all workers, in order.

        Args:
            mine: Vectors of this worker's microbatches, float64, shape ``(width,)``.
            width: Length of each vector.

        Returns:
            Shape ``(num_leaves, width)``, the same on every worker.
        """
        empty = torch.zeros((0, width), dtype=torch.float64, device=self.workers.device)
        leaves = torch.stack(list(mine)) if mine else empty
        return gather_leaves(leaves, partition(self.num_leaves, self.workers.size), self.workers)

    def sum(self, mine: Sequence[Tensor], width: int) -> Tensor:
        """Return the canonical sum of a vector of each microbatch of the step, shape ``(width,)``."""
        return sum_leaves(self.gather(mine, width))

    def finish_gradients(self) -> None:
        """Wait for the exchange; every ``parameter.grad`` is then that of the global batch."""
        self.gradients.finish()

    def finish_statistics(self) -> None:
        """Combine the running statistics of all microbatches."""
        self.statistics.finish(self.num_leaves)

    def abandon(self) -> None:
        """Undo what a step that failed has done to the running statistics."""
        self.statistics.abandon()

    def close(self) -> None:
        """Remove the hooks from the model."""
        self.gradients.close()
