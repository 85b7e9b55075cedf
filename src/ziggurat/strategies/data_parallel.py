"""Data parallelism: the microbatches of a step are spread over workers, and their sums do not depend on how.

Where several workers share each image (sp), each has a *part* of a microbatch's gradient and losses: the parts are
added up after the canonical sum over dp, so that the result has the same bits on any degree of dp.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ziggurat.parallel.collectives.gradients import GradientSum
from ziggurat.parallel.collectives.pieces import PartSum
from ziggurat.parallel.collectives.running_statistics import RunningStatistics
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.leaves import Leaves


class DataParallel(Leaves):
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
        super().__init__(workers, sharing or Workers(device=workers.device))
        self.model = model
        self.names = dict(model.named_parameters())
        for axis in (self.sharing, workers):
            axis.broadcast(list(model.state_dict().values()))
        self.gradients = GradientSum(model.parameters(), workers)
        self.statistics = RunningStatistics(model, workers)
        self.sum_of_parts = PartSum(self.sharing)

    def start(self, num_leaves: int) -> None:
        """Begin a step."""
        self.begin(num_leaves)
        self.gradients.start(num_leaves)
        self.statistics.start()

    @contextmanager
    def leaf(self, index: int) -> Iterator[None]:
        """Take what forward and backward of microbatch `index`, run inside, leave behind."""
        with self.gradients.leaf(index):
            yield
        self.statistics.take_leaf()

    def finish_gradients(self) -> None:
        """Wait for the exchange; every ``parameter.grad`` is then that of the global batch.

        Communication:
            The canonical sum over dp; then the sum of all gradients over sp, see `PartSum`.
        """
        self.gradients.finish(self.sum_of_parts if self.sharing.size > 1 else None)

    def gradient_norm(self) -> Tensor:
        """Return the norm of the gradient of all parameters."""
        return nn.utils.get_total_norm([p.grad for p in self.names.values() if p.grad is not None])

    def finish_statistics(self) -> None:
        """Combine the running statistics of all microbatches."""
        self.statistics.finish(self.num_leaves)

    def abandon(self) -> None:
        """Undo what a step that failed has done to the running statistics."""
        self.statistics.abandon()

    def close(self) -> None:
        """Remove the hooks from the model."""
        self.gradients.close()
