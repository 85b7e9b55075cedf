r"""Turning the subtree roots of all workers into the sum of all leaves, on every worker.

Worker ``r`` adds slice ``r`` of all roots, in the order of the tree; then every worker takes all slices:

    worker 0   roots  [ slice 0 | slice 1 ]          sum  [ slice 0 | slice 1 ]
                          |   \    ^                          ^         ^
                          |    \  /                           |         |
                          v     \/                        added by   added by
    worker 1   roots  [ slice 0 | slice 1 ]               worker 0   worker 1

An exchange has three steps (start, `add_slices`, `result`), so that there is time to compute between them. The steps
are taken in the same order, relative to all other communication, on every worker. There are three ways to do it, with
the same bits: nothing to exchange (one worker), messages, and the shared memory of one machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, Protocol

from torch import Tensor

from ziggurat.parallel.collectives.canonical import Span, Summand, fold, subtrees
from ziggurat.parallel.collectives.workers import Workers


class Exchange(Protocol):
    """An exchange that has been started."""

    def add_slices(self) -> None:
        """Wait until the roots are there, and add this worker's slice of them."""
        ...

    def result(self) -> Tensor:
        """Wait until all slices are added, and return the sum, shape ``(n,)``; its memory belongs to the caller."""
        ...


class NoExchange(Generic[Summand]):
    """The sum of one worker's roots.

    Args:
        roots: Subtree roots.
        num_leaves: Leaves of the whole tree.
    """

    def __init__(self, roots: Mapping[Span, Summand], num_leaves: int) -> None:
        self.total = fold(roots, Span(0, num_leaves))

    def add_slices(self) -> None:
        """Do nothing."""

    def result(self) -> Summand:
        """Return the sum."""
        return self.total


class MessageExchange:
    """An exchange by messages.

    Args:
        roots: This worker's subtree roots, flat tensors of length ``n``; none if it has no leaves.
        parts: The leaves of each worker.
        workers: Several workers.
        like: A tensor of the type and device of the roots.
        length: ``n``.

    Placement: before, each worker holds the roots of its own leaves; after, every worker holds the same sum.

    Communication: one all-to-all of slices and one all-gather over the axis: ``2 * n * (W - 1) / W`` elements sent by
    each worker where each has one root, as in a ring all-reduce.
    """

    def __init__(
        self,
        roots: Mapping[Span, Tensor],
        parts: Sequence[range],
        workers: Workers,
        like: Tensor,
        length: int,
    ) -> None:
        self.workers = workers
        self.node = Span(0, parts[-1].stop)
        self.length = length
        self.slice = -(-length // workers.size)
        self.spans = [subtrees(leaves, self.node) for leaves in parts]
        self.sent = like.new_zeros((workers.size, len(roots), self.slice))
        for place, span in enumerate(self.spans[workers.rank]):
            for row, piece in zip(self.sent[:, place], roots[span].split(self.slice), strict=False):
                row[: piece.numel()] = piece  # the last rows may be short or empty, and stay zero
        counts = [len(spans) * self.slice for spans in self.spans]
        self.received = like.new_empty(sum(counts))
        self.request = workers.start_all_to_all(
            self.received, self.sent.view(-1), counts, [len(roots) * self.slice] * workers.size
        )

    def add_slices(self) -> None:
        """Wait for the slices, add them in the order of the tree, start the all-gather."""
        self.request.wait()
        spans = [span for of_worker in self.spans for span in of_worker]
        roots = dict(zip(spans, self.received.view(-1, self.slice).unbind(), strict=True))
        mine = fold(roots, self.node)
        self.total = mine.new_empty(self.workers.size * self.slice)
        self.request = self.workers.start_all_gather(self.total, mine)

    def result(self) -> Tensor:
        """Wait for the all-gather and return the sum."""
        self.request.wait()
        return self.total[: self.length]


class SharedExchange:
    """An exchange through memory that all workers see.

    Args:
        roots: This worker's subtree roots, flat tensors of length ``n``; none if it has no leaves.
        parts: The leaves of each worker.
        workers: Several workers of one machine.
        places: Shared memory for the roots of each worker, shape ``(W, roots, n)``.
        total: Shared memory for the sum, shape ``(n,)``.

    Communication: two barriers. Each worker writes its roots, reads its slice of all roots, writes its slice of the
    sum, and reads the sum. A worker writes into memory only after a barrier that every reader of the exchange before
    has passed.
    """

    def __init__(
        self,
        roots: Mapping[Span, Tensor],
        parts: Sequence[range],
        workers: Workers,
        places: Tensor,
        total: Tensor,
    ) -> None:
        self.workers = workers
        self.node = Span(0, parts[-1].stop)
        self.spans = [subtrees(leaves, self.node) for leaves in parts]
        self.places = places
        self.total = total
        for place, span in zip(places[workers.rank], self.spans[workers.rank], strict=False):
            place.copy_(roots[span])
        self.request = workers.start_barrier()

    def add_slices(self) -> None:
        """Wait until all roots are written, and add this worker's slice of them."""
        self.request.wait()
        length = -(-self.total.numel() // self.workers.size)
        mine = slice(self.workers.rank * length, (self.workers.rank + 1) * length)
        roots = {
            span: place[mine]
            for spans, places in zip(self.spans, self.places, strict=True)
            for span, place in zip(spans, places, strict=False)
        }
        self.total[mine] = fold(roots, self.node)  # nobody else touches this slice of the roots
        self.request = self.workers.start_barrier()

    def result(self) -> Tensor:
        """Wait until all slices are written, and return a copy of the sum."""
        self.request.wait()
        return self.total.clone()
