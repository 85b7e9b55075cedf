"""The canonical sum that stops at each worker's piece of every parameter; what comes of a piece is shared in the gradient's place.

    roots  [ a0 b0 | a1 b1 ]    slices hold whole pieces: of parameters a and b those of worker 0, then those of worker 1
               |       |
           sum of   sum of      each worker has the gradient of its pieces, and changes its pieces of the parameters
           a0, b0   a1, b1
               |       |
           [ a0 b0 | a1 b1 ]    all workers take all pieces of the parameters, by the second half of the same exchange

The same bytes as for the whole gradient on every worker, and the same bits: each element is added as it would be there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ziggurat.parallel.collectives.exchange import Exchange
from ziggurat.parallel.collectives.gradients import BUCKET_BYTES, Bucket, GradientSum
from ziggurat.parallel.collectives.hierarchy import slices
from ziggurat.parallel.collectives.leaf import Leaf
from ziggurat.parallel.collectives.wire import FP32, Wire
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.torch_internals.tensors import copy_each_

Sizes = Callable[[nn.Parameter], Sequence[int]]


class SlicedSum(GradientSum):
    """Collects one gradient leaf per microbatch; of their sum each worker has its pieces.

    One step::

        sums.start(num_leaves); with sums.leaf(index): ...          # as `GradientSum`
        for parameter, gradient in sums.pieces(): ...               # change this worker's pieces of the parameters
        sums.share()                                                # or leave(), if nothing was changed

    Args:
        parameters: Those that require a gradient, in the model's order; without gaps in memory.
        workers: The workers of the data parallel axis, several.
        sizes: Elements of each worker's piece of a parameter, in the order of its memory and of rank.
        bucket_bytes: Size of what is exchanged at a time.
        parts: As `GradientSum` has it.
        wire: As `GradientSum` has it, of what numbers travel one by one; what is shared in the gradient's place travels as it is.
        part: As `GradientSum` has it.

    Raises:
        ValueError: If numbers of the wire travel in blocks, which a worker's pieces would cut.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], workers: Workers, sizes: Sizes, bucket_bytes: int = BUCKET_BYTES,
        parts: Callable[[Tensor], Tensor] | None = None, wire: Wire = FP32, part: int = 0,
    ) -> None:  # fmt: skip
        if wire.block > 1:
            raise ValueError(f"pieces of parameters would cut the blocks of {wire.name}: take another wire")
        super().__init__(parameters, workers, bucket_bytes, parts, wire, part)
        self.back = FP32
        self.sizes = {id(bucket): [list(sizes(p)) for p in bucket.parameters] for bucket in self.buckets}
        tiers = [group.size for group in workers.tiers]
        places = slices(tiers, [1] * workers.size)
        self.order = sorted(range(workers.size), key=lambda rank: places[rank].start)

    def start(
        self, num_leaves: int, parts: Sequence[range] | None = None, key: tuple[int, ...] = (0, 0)
    ) -> None:
        """Begin a step, as `GradientSum.start` does."""
        super().start(num_leaves, parts, key)
        self.stop_at_slices()

    def pieces(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Wait for all buckets, and yield each parameter with the gradient of this worker's piece, flat.

        Communication:
            As `GradientSum.finish`, without sharing the slices.
        """
        for bucket, mine in zip(self.buckets, self.wait_for_slices(), strict=True):
            sizes = [of_each[self.workers.rank] for of_each in self.sizes[id(bucket)]]
            yield from zip(bucket.parameters, mine.clone().split(sizes), strict=True)

    def share(self) -> None:
        """Give all workers this worker's pieces of the parameters, as they are now.

        Communication:
            The second half of the buckets' exchanges.
        """
        rank = self.workers.rank
        for bucket, exchange in zip(self.buckets, self._exchanges(), strict=True):
            exchange.share(torch.cat([piece[rank] for piece in self._cut(bucket, bucket.parameters)]))
        self._advance_all()
        for bucket, exchange in zip(self.buckets, self._exchanges(), strict=True):
            cut = self._cut(bucket, bucket.parameters)
            places = [piece[other] for other in self.order for piece in cut]
            copy_each_(places, exchange.result().split([place.numel() for place in places]))
        self.pending = []

    def leave(self) -> None:
        """End the step with nothing to share."""
        for exchange in self._exchanges():
            exchange.leave()
        self.pending = []

    def slice_sizes(self, bucket: Bucket) -> list[int]:
        """Return the elements of each worker's slice: all of its pieces."""
        return [sum(sizes) for sizes in zip(*self.sizes[id(bucket)], strict=True)]

    def flat(self, bucket: Bucket, leaf: Leaf) -> Tensor:
        """Return the elements of a leaf, those of each worker's slice together."""
        cut = self._cut(bucket, leaf.tensors)
        return torch.cat([piece[rank] for rank in self.order for piece in cut])

    def _exchanges(self) -> list[Exchange]:
        return [pending for pending in self.pending if isinstance(pending, Exchange)]

    def _cut(self, bucket: Bucket, tensors: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """Return of tensors like a bucket's parameters the piece of each worker, flat views."""
        return [
            tensor.detach().as_strided((tensor.numel(),), (1,)).split(sizes)
            for tensor, sizes in zip(tensors, self.sizes[id(bucket)], strict=True)
        ]
