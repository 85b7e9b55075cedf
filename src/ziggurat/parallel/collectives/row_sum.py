r"""The canonical sum of gradients of which each worker keeps its rows, for weights that are sharded.

    worker 0   leaf 0, leaf 1 --> root [0,2)   [ rows 0 | rows 1 ]          sum  [ rows 0 ]
                                                  |   \    ^
                                                  |    \  /       in each worker's last pass
                                                  v     \/
    worker 1   leaf 2, leaf 3 --> root [2,4)   [ rows 0 | rows 1 ]          sum  [ rows 1 ]

All passes of a step but the last leave subtree roots on the worker that has computed them; in the last one they are exchanged, unit by
unit, and added in the order of the tree. So the bits are those of the sum on one worker, and a step sends each gradient once, whatever the
number of microbatches. The price is memory: with one microbatch a worker nothing is kept, with more a worker keeps its roots, whole.

Where several workers have parts of the same microbatches, each part has a tree of its own, and parts are added in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ziggurat.parallel.collectives.canonical import Accumulator, Span, fold, partition, subtrees
from ziggurat.parallel.collectives.workers import Workers


@dataclass
class Pass:
    """Which backward pass of a step is under way, for all units of a network.

    Attributes:
        step: Counts steps.
        num_leaves: Microbatches of the step.
        leaf: The microbatch of the pass; None of one that keeps other workers company.
        is_last: Whether no worker takes another pass in this step.
    """

    step: int = 0
    num_leaves: int = 0
    leaf: int | None = None
    is_last: bool = False


class RowSum:
    """The sum over a step's passes of one unit's gradient, of which this worker keeps its rows.

    Args:
        workers: All that have rows; neighbours have parts of the same microbatches.
        num_parts: How many have parts of the same microbatches.
        now: The pass, which whoever runs the passes keeps up to date.
    """

    def __init__(self, workers: Workers, num_parts: int, now: Pass) -> None:
        self.workers, self.num_parts, self.now = workers, num_parts, now
        self.step = 0
        self.sum: Accumulator[Tensor] | None = None

    def __call__(self, rows: Tensor, whole: Tensor) -> None:
        """Take the gradient of a pass; in the last pass of a step write this worker's rows of the sum, before that zeros.

        Args:
            rows: Overwritten; flat.
            whole: The rows of each worker, in order of rank, flat; its memory is taken over.

        Communication:
            In the last pass one all-to-all: ``(W - 1) / W`` of the gradient's bytes sent by each worker for each root that it has.
        """
        leaves = self._leaves(self.workers.rank)
        if self.step != self.now.step:
            self.step, self.sum = self.now.step, Accumulator(leaves, self.now.num_leaves)
        assert self.sum is not None
        if self.now.leaf is not None:
            if whole.device.type == "cuda":
                whole.record_stream(torch.cuda.current_stream(whole.device))
            self.sum.add(self.now.leaf, whole)
        if not self.now.is_last:
            rows.zero_()
            return
        if self.sum.expected:
            raise RuntimeError(f"a unit's gradient was not taken of the microbatches {self.sum.expected}")
        roots, self.sum = list(self.sum.roots.values()), None
        rows.copy_(self._exchange(roots, rows))

    def _leaves(self, rank: int) -> range:
        return partition(self.now.num_leaves, self.workers.size // self.num_parts)[rank // self.num_parts]

    def _exchange(self, roots: Sequence[Tensor], like: Tensor) -> Tensor:
        size, length = self.workers.size, like.numel()
        node = Span(0, self.now.num_leaves)
        spans = [subtrees(self._leaves(rank), node) for rank in range(size)]
        pieces = [root.view(size, length) for root in roots]  # of each worker
        sent = torch.stack(pieces, 1) if len(pieces) > 1 else pieces[0] if pieces else like.new_empty(0)
        counts = [len(of_one) * length for of_one in spans]
        received = like.new_empty(sum(counts))
        self.workers.start_all_to_all(received, sent.reshape(-1), counts, [len(roots) * length] * size).wait()
        of_parts: dict[Span, Tensor] = {}
        for part in range(self.num_parts):
            found = {
                span: row
                for rank, of_worker in enumerate(received.split(counts))
                for span, row in zip(spans[rank], of_worker.view(-1, length), strict=True)
                if rank % self.num_parts == part
            }
            of_parts[Span(part, part + 1)] = fold(found, node)
        return fold(of_parts, Span(0, self.num_parts))
