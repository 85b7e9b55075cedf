"""Data parallelism: the microbatches of a step are spread over workers, and their sums do not depend on how.

Where several workers share each image (sp), each has a *part* of a microbatch's gradient and losses: the parts are
added up after the canonical sum over dp, so that the result has the same bits on any degree of dp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ziggurat.parallel.canonical import gather_leaves, partition, sum_leaves
from ziggurat.parallel.gradients import GradientSum
from ziggurat.parallel.pieces import PartSum
from ziggurat.parallel.running_statistics import RunningStatistics
from ziggurat.parallel.workers import Workers
from ziggurat.phases import waiting


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
        sharing: The workers that share each image (the sp axis); by default this one alone.
    """

    def __init__(self, model: nn.Module, workers: Workers, sharing: Workers | None = None) -> None:
        self.workers = workers
        self.sharing = sharing or Workers(device=workers.device)
        for axis in (self.sharing, workers):
            axis.copy_from_first(list(model.state_dict().values()))
        self.gradients = GradientSum(model.parameters(), workers)
        self.statistics = RunningStatistics(model, workers)
        self.sum_of_parts = PartSum(self.sharing)

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

    def gather(self, mine: Sequence[Tensor], width: int, parts: bool = True) -> Tensor:
        """Return a vector of each microbatch of the step, from all workers, in order.

        Args:
            mine: Vectors of this worker's microbatches, float64, shape ``(width,)``.
            width: Length of each vector.
            parts: Whether the workers that share an image have a part of its vector each, or each the whole.

        Returns:
            Shape ``(num_leaves, width)``, the same on every worker.

        Communication:
            One all-gather over dp; of parts one all-reduce over sp.
        """
        empty = torch.zeros((0, width), dtype=torch.float64, device=self.workers.device)
        leaves = torch.stack(list(mine)) if mine else empty
        gathered = gather_leaves(leaves, partition(self.num_leaves, self.workers.size), self.workers)
        return self._add_parts(gathered) if parts else gathered

    def sum(self, mine: Sequence[Tensor], width: int, parts: bool = True) -> Tensor:
        """Return the canonical sum of a vector of each microbatch of the step, shape ``(width,)``."""
        return sum_leaves(self.gather(mine, width, parts))

    def finish_gradients(self) -> None:
        """Wait for the exchange; every ``parameter.grad`` is then that of the global batch.

        Communication:
            The canonical sum over dp; then the sum of all gradients over sp, see `PartSum`.
        """
        self.gradients.finish(self.sum_of_parts if self.sharing.size > 1 else None)

    def _add_parts(self, part: Tensor) -> Tensor:
        """Return the sum of a tensor over the workers that share an image; the tensor itself is overwritten."""
        if self.sharing.size > 1:
            with waiting():
                dist.all_reduce(part, group=self.sharing.group)
        return part

    def finish_statistics(self) -> None:
        """Combine the running statistics of all microbatches."""
        self.statistics.finish(self.num_leaves)

    def abandon(self) -> None:
        """Undo what a step that failed has done to the running statistics."""
        self.statistics.abandon()

    def close(self) -> None:
        """Remove the hooks from the model."""
        self.gradients.close()
