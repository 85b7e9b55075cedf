"""What a step's microbatches leave behind, seen from any of the workers that they are spread over."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ziggurat.parallel.collectives.canonical import gather_leaves, partition, sum_leaves
from ziggurat.parallel.collectives.workers import Workers


class Leaves:
    """The microbatches of a step, spread over the workers of the dp axis.

    Args:
        workers: Of the dp axis.
        sharing: The workers that share each image (the sp axis).

    Attributes:
        num_leaves: Microbatches of the step.
        mine: This worker's.
    """

    def __init__(self, workers: Workers, sharing: Workers) -> None:
        self.workers, self.sharing = workers, sharing
        self.num_leaves = 0
        self.mine = range(0)

    def leaves_of_worker(self, num_leaves: int, rank: int | None = None) -> range:
        """Return the microbatches of a worker (this one by default) in a step that has `num_leaves`."""
        return partition(num_leaves, self.workers.size)[self.workers.rank if rank is None else rank]

    def begin(self, num_leaves: int) -> None:
        """Begin a step."""
        self.num_leaves = num_leaves
        self.mine = self.leaves_of_worker(num_leaves)

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

    def _add_parts(self, part: Tensor) -> Tensor:
        """Return the sum of a tensor over the workers that share an image; the tensor itself is overwritten."""
        return self.sharing.add_up(part)
