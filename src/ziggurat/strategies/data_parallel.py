"""Data parallelism in a training loop of one's own, a context for each microbatch. `ziggurat.Step` does more, under any plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ziggurat.parallel.collectives.canonical import consecutive, gather_leaves, partition, sum_leaves
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.machines import find_tiers
from ziggurat.strategies.sums import Section, Sums
from ziggurat.system.platform import machine_name


class DataParallel:
    """Joins a model to workers that take other microbatches each.

    One step, of `num_leaves` microbatches::

        parallel.start(num_leaves)
        for index in parallel.mine:              # this worker's microbatches
            with parallel.leaf(index):
                loss_share(index).backward()
        parallel.finish_gradients()              # parameter.grad: the canonical sum over all microbatches
        parallel.finish_statistics()             # running statistics of batch norm: in canonical order

    Args:
        model: Its weights are made those of the first worker.
        workers: All workers.
        hierarchy: How they meet: see ``launch.hierarchy``.

    Attributes:
        num_leaves: Microbatches of the step.
    """

    def __init__(self, model: nn.Module, workers: Workers, hierarchy: str = "auto") -> None:
        self.workers = workers
        workers.arrange(find_tiers(workers, hierarchy, machine_name()))
        workers.broadcast(list(model.state_dict().values()))
        self.sums = Sums([Section(dict(model.named_parameters()), model)], workers)
        self.num_leaves, self.parts = 0, [range(0)] * workers.size

    @property
    def mine(self) -> range:
        """The microbatches of the step that are this worker's."""
        return self.parts[self.workers.rank]

    def start(self, num_leaves: int, counts: Sequence[int] | None = None) -> None:
        """Begin a step.

        Args:
            num_leaves: Microbatches of all workers.
            counts: How many each worker takes, the same on all of them; by default as even as possible. The sums have the same bits.

        Raises:
            ValueError: If the counts are not one for each worker, together `num_leaves`.
        """
        if counts is not None and (
            len(counts) != self.workers.size or sum(counts) != num_leaves or min(counts) < 0
        ):
            raise ValueError(
                f"counts are the microbatches of each of {self.workers.size} workers, together {num_leaves}: got {list(counts)}"
            )
        self.num_leaves = num_leaves
        self.parts = partition(num_leaves, self.workers.size) if counts is None else consecutive(counts)
        self.sums.start(num_leaves, self.parts)

    @contextmanager
    def leaf(self, index: int) -> Iterator[None]:
        """Take what forward and backward of microbatch `index`, run inside, leave behind."""
        with self.sums.leaf(0, index), self.sums.watching():
            yield
        self.sums.take_statistics(0)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Run forward passes that count for nothing: whose outputs alone are wanted, before those of `leaf`."""
        with self.sums.watching():
            yield
        self.sums.forget_statistics()

    def sum(self, mine: Sequence[Tensor], width: int) -> Tensor:
        """Return the canonical sum of a vector of each microbatch of the step, float64, shape ``(width,)``.

        Communication:
            One all-gather.
        """
        empty = torch.zeros((0, width), dtype=torch.float64, device=self.workers.device)
        vectors = torch.stack(list(mine)) if mine else empty
        return sum_leaves(gather_leaves(vectors, self.parts, self.workers))

    def finish_gradients(self) -> None:
        """Wait for the exchange; every ``parameter.grad`` is then that of the global batch."""
        self.sums.assign(self.sums.finish())

    def finish_statistics(self) -> None:
        """Combine the running statistics of all microbatches."""
        self.sums.finish_statistics()

    def close(self) -> None:
        """Remove the hooks from the model."""
        self.sums.close()
