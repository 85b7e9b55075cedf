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

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ziggurat.parallel.collectives.exchange import Exchange
from ziggurat.parallel.collectives.gradients import BUCKET_BYTES, Bucket, GradientSum
from ziggurat.parallel.collectives.hierarchy import slices
from ziggurat.parallel.collectives.leaf import Leaf
from ziggurat.parallel.collectives.wire import FP32, Rounding, Wire
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
        sizes: Elements of each worker's piece of a parameter, in the order of its memory and of rank; of whole blocks of the wire, but where
            the parameter ends.
        bucket_bytes: Size of what is exchanged at a time.
        parts: As `GradientSum` has it.
        wire: As `GradientSum` has it; what is shared in the gradient's place travels as it is.
        part: As `GradientSum` has it.

    Raises:
        ValueError: If a piece cuts a block of the wire.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], workers: Workers, sizes: Sizes, bucket_bytes: int = BUCKET_BYTES,
        parts: Callable[[Tensor], Tensor] | None = None, wire: Wire = FP32, part: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(parameters, workers, bucket_bytes, parts, wire, part)
        self.back = FP32
        self.sizes = {id(bucket): [list(sizes(p)) for p in bucket.parameters] for bucket in self.buckets}
        block = wire.block
        # with what fills the last block of a parameter
        self.filled = {
            key: [[-(-size // block) * block for size in of_each] for of_each in of_bucket]
            for key, of_bucket in self.sizes.items()
        }
        for bucket in self.buckets:
            lengths = [stop - start for start, stop in itertools.pairwise((*bucket.starts, bucket.length))]
            if [sum(filled) for filled in self.filled[id(bucket)]] != lengths:
                raise ValueError(f"pieces of a parameter must not cut blocks of {block} neighbours")
        self.states: dict[int, Tensor] = {}  # of the blocks of each bucket, as its slices have them
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
        rank = self.workers.rank
        for bucket, mine in zip(self.buckets, self.wait_for_slices(), strict=True):
            filled = mine.clone().split([of_each[rank] for of_each in self.filled[id(bucket)]])
            for parameter, piece, sizes in zip(
                bucket.parameters, filled, self.sizes[id(bucket)], strict=True
            ):
                yield parameter, piece[: sizes[rank]]

    def share(self) -> None:
        """Give all workers this worker's pieces of the parameters, as they are now.

        Communication:
            The second half of the buckets' exchanges.
        """
        rank = self.workers.rank
        for bucket, exchange in zip(self.buckets, self._exchanges(), strict=True):
            exchange.share(torch.cat([piece[rank] for piece in self._filled(bucket, bucket.parameters)]))
        self._advance_all()
        for bucket, exchange in zip(self.buckets, self._exchanges(), strict=True):
            cut, filled = self._cut(bucket, bucket.parameters), self.filled[id(bucket)]
            places = [piece[other] for other in self.order for piece in cut]
            found = exchange.result().split([of_each[other] for other in self.order for of_each in filled])
            copy_each_(places, [one[: place.numel()] for one, place in zip(found, places, strict=True)])
        self.pending = []

    def leave(self) -> None:
        """End the step with nothing to share."""
        for exchange in self._exchanges():
            exchange.leave()
        self.pending = []

    def slice_sizes(self, bucket: Bucket) -> list[int]:
        """Return the elements of each worker's slice: all of its pieces, in whole blocks of the wire."""
        return [sum(sizes) for sizes in zip(*self.filled[id(bucket)], strict=True)]

    def flat(self, bucket: Bucket, leaf: Leaf) -> Tensor:
        """Return the elements of a leaf, those of each worker's slice together."""
        cut = self._cut(bucket, leaf.tensors) if leaf.joined is None else self._of_flat(bucket, leaf.joined)
        return torch.cat([piece[rank] for rank in self.order for piece in cut])

    def rounding_of_slices(self, bucket: Bucket) -> Rounding | None:
        """Return what rounds nodes in which the elements of each worker's slice are together: each block as it is rounded elsewhere."""
        rounding = bucket.rounding
        if rounding is None or rounding.states is None:
            return rounding
        if id(bucket) not in self.states:
            cut = self._of_flat(bucket, rounding.states, self.wire.block)
            self.states[id(bucket)] = torch.cat([piece[rank] for rank in self.order for piece in cut])
        return Rounding(rounding.wire, self.states[id(bucket)], rounding.key, rounding.part)

    def _exchanges(self) -> list[Exchange]:
        return [pending for pending in self.pending if isinstance(pending, Exchange)]

    def _cut(self, bucket: Bucket, tensors: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """Return of tensors like a bucket's parameters the piece of each worker, flat views."""
        return [
            tensor.detach().as_strided((tensor.numel(),), (1,)).split(sizes)
            for tensor, sizes in zip(tensors, self.sizes[id(bucket)], strict=True)
        ]

    def _filled(self, bucket: Bucket, tensors: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """Return what `_cut` does, with zeros after each piece that ends in the middle of a block."""
        cut = self._cut(bucket, tensors)
        return [
            tuple(
                piece if piece.numel() == size else nn.functional.pad(piece, (0, size - piece.numel()))
                for piece, size in zip(pieces, filled, strict=True)
            )
            for pieces, filled in zip(cut, self.filled[id(bucket)], strict=True)
        ]

    def _of_flat(self, bucket: Bucket, flat: Tensor, each: int = 1) -> list[tuple[Tensor, ...]]:
        """Return the piece of each worker of each parameter of a flat tensor, whose elements stand for so many of a bucket."""
        pieces = []
        for start, filled in zip(bucket.starts, self.filled[id(bucket)], strict=True):
            of_parameter = flat[start // each : (start + sum(filled)) // each]
            pieces.append(of_parameter.split([size // each for size in filled]))
        return pieces
