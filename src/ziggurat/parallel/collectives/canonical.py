r"""The canonical sum: one fixed order of addition, whatever the number of workers.

Every microbatch gives one leaf. The leaves are added in a binary tree over the microbatch index that depends on
nothing but their number:

    leaf   0   1   2   3   4   5   6   7        nodes of 8 leaves: spans [0,1) .. [7,8), [0,2), [2,4), [4,6),
            \ /     \ /     \ /     \ /         [6,8), [0,4), [4,8), [0,8)
             +       +       +       +
              \     /         \     /           of 5 leaves: [0,4) as above, and [0,5) = [0,4) + [4,5)
                 +               +
                  \             /              3 workers of 3 + 3 + 2 leaves hold the subtrees
                        +                      [0,2) [2,3)  |  [3,4) [4,6)  |  [6,8)

Floating-point addition is not associative, so the tree, not the workers, decides who is added to whom. A worker
folds the subtrees that lie within its own leaves; only their roots travel.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ziggurat.parallel.collectives.hierarchy import members
from ziggurat.parallel.collectives.workers import Workers


class _Addable(Protocol):
    def add_(self, other: Any, /) -> Any: ...


Summand = TypeVar("Summand", bound=_Addable)  # a tensor, or a leaf of several
Made = Callable[["Span", Summand], None]


class Span(NamedTuple):
    """The leaves ``[start, stop)``."""

    start: int
    stop: int


def partition(num_leaves: int, num_workers: int) -> list[range]:
    """Return the leaves of each worker: consecutive, as even as possible, the larger parts first.

    Example:
        >>> partition(8, 3)
        [range(0, 3), range(3, 6), range(6, 8)]
    """
    small, larger = divmod(num_leaves, num_workers)
    return consecutive([small + (rank < larger) for rank in range(num_workers)])


def consecutive(counts: Sequence[int]) -> list[range]:
    """Return the leaves of each worker, consecutive, so many of each: the sum is the same for any counts.

    Example:
        >>> consecutive([5, 0, 3])
        [range(0, 5), range(5, 5), range(5, 8)]
    """
    starts = itertools.accumulate(counts, initial=0)
    return [range(start, stop) for start, stop in itertools.pairwise(starts)]


def children(span: Span) -> tuple[Span, Span]:
    """Return the two nodes below a node with more than one leaf.

    The left one holds the largest power of two that is smaller than the node.

    Example:
        >>> children(Span(0, 5))
        (Span(start=0, stop=4), Span(start=4, stop=5))
    """
    left = 1 << ((span.stop - span.start - 1).bit_length() - 1)
    middle = span.start + left
    return Span(span.start, middle), Span(middle, span.stop)


def subtrees(leaves: range, node: Span) -> list[Span]:
    """Return the largest nodes at or below `node` that hold only `leaves`, from left to right.

    Example:
        >>> subtrees(range(3, 6), Span(0, 8))
        [Span(start=3, stop=4), Span(start=4, stop=6)]
    """
    if leaves.stop <= node.start or node.stop <= leaves.start:
        return []
    if leaves.start <= node.start and node.stop <= leaves.stop:
        return [node]
    left, right = children(node)
    return subtrees(leaves, left) + subtrees(leaves, right)


def add_into(left: Summand, right: Summand) -> Summand:
    """Add the right child of a node to the left one, in place."""
    total: Summand = left.add_(right)
    return total


def fold(
    roots: Mapping[Span, Summand], node: Span, add: Callable[[Summand, Summand], Summand] = add_into,
    made: Made[Summand] | None = None,
) -> Summand:  # fmt: skip
    """Add the roots of subtrees in the order of the tree.

    Args:
        roots: The sums of disjoint subtrees that together make up `node`, all of one shape.
        node: The node whose sum is wanted.
        add: Makes a node of its left and right child, in the memory of the left one.
        made: Is given each node that is made, and may change it: rounds it to what travels.

    Returns:
        The sum, in the memory of its leftmost root.
    """
    if node in roots:
        return roots[node]
    left, right = children(node)
    total = add(fold(roots, left, add, made), fold(roots, right, add, made))
    if made is not None:
        made(node, total)
    return total


class Accumulator(Generic[Summand]):
    """Folds the leaves of one worker as they come, keeping only the roots of finished subtrees.

    Whoever makes the leaves may add every second one to its left neighbour on the spot (`take_left`); `gradients_held` says
    how many there are then.

    Args:
        leaves: The worker's.
        num_leaves: Of all workers.
        add: As `fold` has it.
        made: As `fold` has it; leaves are whoever's who makes them.
    """

    def __init__(
        self, leaves: range, num_leaves: int, add: Callable[[Summand, Summand], Summand] = add_into,
        made: Made[Summand] | None = None,
    ) -> None:  # fmt: skip
        self.node, self.join, self.made = Span(0, num_leaves), add, made
        self.roots: dict[Span, Summand] = {}
        self.expected = list(leaves)

    def take_left(self, leaf: int) -> Summand | None:
        """Give away the leaf to which the next one is added first; None if that is no single leaf, or another worker's."""
        return self.roots.pop(Span(leaf - 1, leaf), None) if leaf % 2 else None

    def add(self, leaf: int, value: Summand, has_left: bool = False) -> None:
        """Add the next leaf; its memory is taken over.

        Args:
            leaf: Its index.
            value: The leaf.
            has_left: Whether it is added already to what `take_left` has given away.

        Raises:
            ValueError: If leaves do not come in order.
        """
        if not self.expected or leaf != self.expected[0]:
            raise ValueError(f"leaves must come in order: got {leaf}, expected {self.expected[:1]}")
        self.expected.pop(0)
        self.roots[Span(leaf - has_left, leaf + 1)] = value
        done = range(next(iter(self.roots)).start, leaf + 1)
        self.roots = {
            span: fold(self.roots, span, self.join, self.made) for span in subtrees(done, self.node)
        }


def gradients_held(leaves: range, num_leaves: int, lends: bool = True) -> list[tuple[int, int]]:
    """Return how many gradients a worker holds before each of its leaves, and with the one that is made.

    Args:
        leaves: The worker's.
        num_leaves: Of all workers.
        lends: Whether every second leaf is added to its left neighbour where it is made.

    Example:
        >>> gradients_held(range(4), 4)
        [(0, 1), (1, 1), (1, 2), (2, 2)]
        >>> gradients_held(range(3, 5), 5)  # leaf 3 is added to another worker's first
        [(0, 1), (1, 2)]
    """
    held = []
    for leaf in leaves:
        roots = subtrees(range(leaves.start, leaf), Span(0, num_leaves))
        has_left = lends and leaf % 2 == 1 and Span(leaf - 1, leaf) in roots
        held.append((len(roots), len(roots) + (not has_left)))
    return held


def gather_leaves(leaves: Tensor, partition_: Sequence[range], workers: Workers) -> Tensor:
    """Return the leaves of all workers, in order of their index.

    Args:
        leaves: This worker's leaves, shape ``(n, K)``; ``n`` is the length of its part and may be zero.
        partition_: The leaves of each worker.
        workers: The workers of the axis.

    Returns:
        Shape ``(num_leaves, K)``, the same on every worker.

    Communication: one all-gather for each tier, the outermost first: between machines a worker sends its own leaves alone.
    """
    tiers = [group.size for group in workers.tiers]
    ranks, gathered, width = [workers.rank], leaves, leaves.shape[1]
    for number in reversed(range(len(tiers))):
        others = [member - workers.rank for member in members(workers.rank, tiers, number)]
        held = [[rank + offset for rank in ranks] for offset in others]
        rows = [sum(len(partition_[rank]) for rank in of_one) for of_one in held]
        whole = gathered.new_empty((sum(rows), width))
        sizes = [number_of_rows * width for number_of_rows in rows]
        workers.tiers[number].start_all_gather(whole, gathered.contiguous(), sizes).wait()
        ranks, gathered = [rank for of_one in held for rank in of_one], whole
    found = dict(zip(ranks, gathered.split([len(partition_[rank]) for rank in ranks]), strict=True))
    return torch.cat([found[rank] for rank in range(workers.size)])


def sum_leaves(leaves: Tensor) -> Tensor:
    """Add the rows of `leaves`, shape ``(n, K)``, in the order of the tree; zeros where there are none."""
    if not len(leaves):
        return leaves.new_zeros(leaves.shape[1])
    return fold_rows(leaves.clone())


def fold_rows(rows: Tensor) -> Tensor:
    """Add rows in the order of the tree over them, level by level: as many additions as the tree is deep, and the bits of `fold`.

    Neighbours are added, the last one of an odd number stays: so each node holds the largest power of two to the left.

    Args:
        rows: Shape ``(n, K)``, one at least; overwritten.

    Returns:
        Shape ``(K,)``, in the memory of the first row.

    Example:
        >>> fold_rows(torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]]))
        tensor([15.])
    """
    while (count := len(rows)) > 1:
        rows[: count // 2 * 2 : 2].add_(rows[1::2])
        rows = rows[::2]
    return rows[0]


def are_leaves(spans: Sequence[Span], node: Span) -> bool:
    """Whether the tree over some spans, as if each were a leaf, is that of a node which they make up.

    Example:
        >>> are_leaves([Span(4, 6), Span(6, 8)], Span(4, 8)), are_leaves([Span(3, 4), Span(4, 6)], Span(3, 6))
        (True, False)
    """
    length = spans[0].stop - spans[0].start
    even = all(
        span == Span(node.start + n * length, node.start + (n + 1) * length) for n, span in enumerate(spans)
    )
    return even and spans[-1].stop == node.stop and not length & (length - 1)
