r"""Turning the subtree roots of all workers into the sum of all leaves: a slice of it on each worker, or all of it on every one.

Worker ``r`` adds slice ``r`` of all roots, in the order of the tree; then every worker takes all slices:

    worker 0   roots  [ slice 0 | slice 1 ]          sum  [ slice 0 | slice 1 ]
                          |   \    ^                          ^         ^
                          |    \  /                           |         |
                          v     \/                        added by   added by
    worker 1   roots  [ slice 0 | slice 1 ]               worker 0   worker 1

Between the two halves each worker may do with its slice what is done to each element by itself: add what workers with other
parts of the same leaves have, or make of a gradient the weight that is shared in its place.

An exchange has several steps, so that there is time to compute between them. The steps are taken in the same order,
relative to all other communication, on every worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from ziggurat.parallel.collectives.canonical import Made, Span, add_into, fold
from ziggurat.parallel.collectives.tiers import Add, Tier


class Exchange:
    """An exchange, whose first step is begun at once.

    Args:
        roots: This worker's subtree roots, flat tensors of length ``n``; none if it has no leaves.
        node: All leaves.
        tiers: The innermost first; none where this worker has all leaves.
        length: ``n``.
        stops: Whether the slice waits for `share`; else it is shared as it is.
        add: Makes a node of its left and right child, in the memory of the left one.
        made: Is given what is made here of a node, this worker's slice, and may change it.

    Placement: before, each worker holds the roots of its own leaves; at the slice each worker holds the sum of its slice; after,
    every worker holds the same sum.

    Communication: that of the tiers, one after the other inwards to outwards, and back.
    """

    def __init__(
        self, roots: Mapping[Span, Tensor], node: Span, tiers: Sequence[Tier], length: int, stops: bool = False,
        add: Add = add_into, made: Made[Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.node, self.tiers, self.length, self.add, self.made = node, tiers, length, add, made
        self.stops = stops
        self.mine: Tensor | None = None  # this worker's slice, once it is summed
        self.whole: Tensor | None = None
        self.steps = self._scatter(roots)
        next(self.steps)

    def advance(self) -> None:
        """Take the next step: wait for what was begun, and begin what comes after it; at the end, or at a stop, nothing."""
        next(self.steps, None)

    def slice(self) -> Tensor:
        """Return this worker's slice of the sum, a few elements longer than its part of ``n`` where slices are equal.

        It may lie in memory that the next exchange writes to; this worker may change it.
        """
        while self.mine is None:
            self.advance()
        return self.mine

    def share(self, mine: Tensor) -> None:
        """Go on after a stop: begin to give all workers this worker's slice, which may be another one than that of the sum."""
        self.slice()
        self.steps = self._gather(mine)
        next(self.steps)

    def leave(self) -> None:
        """End the exchange at its stop: the slices stay where they are."""
        self.slice()
        for tier in self.tiers:
            tier.leave()

    def result(self) -> Tensor:
        """Wait until all slices are there, and return them, shape ``(n,)``; the memory belongs to the caller."""
        while self.whole is None:
            self.advance()
        return self.whole[: self.length]

    def _scatter(self, roots: Mapping[Span, Tensor]) -> Iterator[None]:
        for tier in self.tiers:
            tier.start_scatter(roots)
            yield
            roots = tier.scattered()
        self.mine = fold(roots, self.node, self.add, self.made)
        if not self.stops:
            yield from self._gather(self.mine)
        yield

    def _gather(self, mine: Tensor) -> Iterator[None]:
        for tier in reversed(self.tiers):
            tier.start_gather(mine)
            yield
            mine = tier.gathered()
        self.whole = mine
        yield
