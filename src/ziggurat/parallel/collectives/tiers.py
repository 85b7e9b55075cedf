r"""One tier of an exchange: the workers of a group bring subtree roots, and leave with a piece of each root of them all.

The workers of an axis meet by tiers, the innermost first: those of a machine, then those of several machines that hold the same
piece. What a tier needs to know of its members is a value, a `Meeting`; how roots get there is a `Tier`: by messages, or
through the memory of one machine.

    2 x 2 workers     tier 0: machine        tier 1: between machines         the slice of each worker
    worker 0          [ 0 | 1 ] of roots     [ 0.0 | 0.1 ] of the machine's   0.0   first quarter
    worker 1          of workers 0, 1        [ 1.0 | 1.1 ]                    1.0   third quarter
    worker 2          [ 0 | 1 ] of roots     [ 0.0 | 0.1 ]                    0.1   second quarter
    worker 3          of workers 2, 3        [ 1.0 | 1.1 ]                    1.1   fourth quarter
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ziggurat.parallel.collectives.canonical import (
    Made,
    Span,
    add_into,
    are_leaves,
    fold,
    fold_rows,
    subtrees,
)
from ziggurat.parallel.collectives.hierarchy import members, place_in
from ziggurat.parallel.collectives.requests import DONE, Request
from ziggurat.parallel.collectives.wire import FP32, Wire
from ziggurat.parallel.collectives.workers import Workers

Add = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Meeting:
    """What the members of a group bring to a tier, and what each takes away.

    Attributes:
        workers: The members.
        brought: The subtrees whose roots each of them has.
        sizes: Elements of the piece that each of them takes, of every root.
        kept: The subtrees that their roots together make up.
        start: Where, in all elements, this worker's piece begins.
    """

    workers: Workers
    brought: list[list[Span]]
    sizes: list[int]
    kept: list[Span]
    start: int = 0


def meetings(
    groups: Sequence[Workers], rank: int, parts: Sequence[range], sizes: Sequence[int]
) -> list[Meeting]:
    """Return this worker's meetings, the innermost first.

    Args:
        groups: Its group of each tier.
        rank: Its number among all workers.
        parts: The leaves of each worker.
        sizes: Elements of each worker's slice.
    """
    tiers = [group.size for group in groups]
    node, mine = Span(0, parts[-1].stop), place_in(rank, tiers)
    found, start = [], 0
    for number, group in enumerate(groups):
        inner = math.prod(tiers[:number])  # so many neighbouring workers have met already
        firsts = [member // inner * inner for member in members(rank, tiers, number)]
        taken = [0] * group.size
        for worker, size in enumerate(sizes):
            places = place_in(worker, tiers)
            if places[:number] == mine[:number]:
                taken[places[number]] += size
        brought = [_held(parts[first : first + inner], node) for first in firsts]
        kept = _held(parts[firsts[0] : firsts[-1] + inner], node)
        start += sum(taken[: mine[number]])
        found.append(Meeting(group, brought, taken, kept, start))
    return found


def _held(parts: Sequence[range], node: Span) -> list[Span]:
    return subtrees(range(parts[0].start, parts[-1].stop), node)


class Tier(Protocol):
    """A meeting, under way: roots are scattered, and what becomes of the pieces is gathered."""

    def start_scatter(self, roots: Mapping[Span, Tensor]) -> None:
        """Begin to give each member its piece of this worker's roots."""
        ...

    def scattered(self) -> dict[Span, Tensor]:
        """Wait for this worker's piece of all roots; return that of the subtrees that the roots together make up."""
        ...

    def leave(self) -> None:
        """Say that nothing is gathered, and that this worker has read what the others gave it."""
        ...

    def start_gather(self, mine: Tensor) -> None:
        """Begin to give all members this worker's piece."""
        ...

    def gathered(self) -> Tensor:
        """Wait for the pieces of all members, and return them one after the other; the memory belongs to the caller."""
        ...


class MessageTier:
    """A tier by messages.

    Args:
        meeting: Of several workers.
        like: A tensor of the type and device of the roots.
        add: Adds the root to the right, its second argument, to that to the left, in place.
        made: Is given this worker's piece of each node that is made here, and may change it.
        wire: What roots travel as, which they have been rounded to; pieces are whole blocks of it.
        back: What is gathered travels as.

    Communication: one all-to-all of pieces and one all-gather over the group: where each of its `s` members has one root of `n`
    elements, ``2 * n * (s - 1) / s`` elements sent by each, as in a ring all-reduce, in ``2 * (s - 1)`` messages.
    """

    def __init__(
        self, meeting: Meeting, like: Tensor, add: Add = add_into, made: Made[Tensor] | None = None,
        wire: Wire = FP32, back: Wire = FP32,
    ) -> None:  # fmt: skip
        self.meeting, self.like, self.add, self.made = meeting, like, add, made
        self.wire, self.back = wire, back
        self.workers = meeting.workers
        self.mine = meeting.sizes[self.workers.rank]
        self.request = DONE

    def start_scatter(self, roots: Mapping[Span, Tensor]) -> None:
        """Begin the all-to-all. Roots may be shorter than all pieces together: the rest is zeros."""
        sizes, spans = self.meeting.sizes, self.meeting.brought[self.workers.rank]
        if len(spans) == 1 and roots[spans[0]].numel() == sum(sizes):
            sent = roots[spans[0]]  # its pieces lie one after the other already
        else:
            sent = self._by_member([roots[span] for span in spans])
        counts = [len(brought) * self.mine for brought in self.meeting.brought]
        self.received = self.wire.room(sum(counts), self.like)
        self.request = self.workers.start_all_to_all(
            self.received,
            self.wire.pack(sent),
            [self.wire.size(count) for count in counts],
            [self.wire.size(size * len(spans)) for size in sizes],
        )

    def _by_member(self, roots: Sequence[Tensor]) -> Tensor:
        """Return the pieces of all roots for the first member, then those for the second, and so on."""
        sizes, start = self.meeting.sizes, 0
        sent = self.like.new_empty(sum(sizes) * len(roots))
        for size, rows in zip(sizes, sent.split([size * len(roots) for size in sizes]), strict=True):
            for row, root in zip(rows.split(size) if size else (), roots, strict=False):
                piece = root[start : start + size]
                row[: piece.numel()] = piece
                row[piece.numel() :] = 0
            start += size
        return sent

    def scattered(self) -> dict[Span, Tensor]:
        """Wait for the pieces, and add those of roots that have a subtree in common."""
        self.request.wait()
        spans = [span for brought in self.meeting.brought for span in brought]
        rows, kept = self.wire.unpack(self.received).view(len(spans), self.mine), self.meeting.kept
        if self.add is add_into and self.made is None and len(kept) == 1 and are_leaves(spans, kept[0]):
            return {kept[0]: fold_rows(rows)}
        return _joined(dict(zip(spans, rows.unbind(), strict=True)), kept, self.add, self.made)

    def leave(self) -> None:
        """Do nothing: what was received is this worker's own."""

    def start_gather(self, mine: Tensor) -> None:
        """Begin the all-gather."""
        self.whole = self.back.room(sum(self.meeting.sizes), mine)
        sizes = [self.back.size(size) for size in self.meeting.sizes]
        self.request = self.workers.start_all_gather(self.whole, self.back.pack(mine.contiguous()), sizes)

    def gathered(self) -> Tensor:
        """Wait for the all-gather."""
        self.request.wait()
        return self.back.unpack(self.whole)


@dataclass
class Room:
    """Memory that all members of a group see, for one exchange after the other.

    Attributes:
        places: For the roots of each member, shape ``(s, roots, n)``.
        total: For what is gathered, shape ``(n,)``.
        read: Ends when all members have read what they gave each other, and the places may be written again.
    """

    places: Tensor
    total: Tensor
    read: Request = DONE


class SharedTier:
    """A tier through memory that all its workers see.

    Args:
        meeting: Of several workers of one machine.
        room: Large enough.
        add: As `MessageTier` has it.
        made: As `MessageTier` has it.

    Communication: two barriers. Each worker writes its roots, reads its piece of all roots, writes its piece of what is gathered, and
    reads that. A worker writes into memory only after a barrier that every reader of the exchange before has passed.
    """

    def __init__(
        self, meeting: Meeting, room: Room, add: Add = add_into, made: Made[Tensor] | None = None
    ) -> None:
        self.meeting, self.room, self.add, self.made = meeting, room, add, made
        self.workers = meeting.workers
        starts = list(itertools.accumulate(meeting.sizes, initial=0))
        self.mine = slice(starts[self.workers.rank], starts[self.workers.rank + 1])
        self.request = DONE

    def start_scatter(self, roots: Mapping[Span, Tensor]) -> None:
        """Write the roots."""
        self.room.read.wait()
        places = self.room.places[self.workers.rank]
        for place, span in zip(places, self.meeting.brought[self.workers.rank], strict=False):
            place[: roots[span].numel()] = roots[span]
            self.workers.sent.shared_bytes += roots[span].nbytes
        self.request = self.workers.start_barrier()

    def scattered(self) -> dict[Span, Tensor]:
        """Wait until all roots are written, and add this worker's piece of them: nobody else touches it."""
        self.request.wait()
        roots = {
            span: place[self.mine]
            for spans, places in zip(self.meeting.brought, self.room.places, strict=True)
            for span, place in zip(spans, places, strict=False)
        }
        return _joined(roots, self.meeting.kept, self.add, self.made)

    def leave(self) -> None:
        """Begin the barrier after which others may write."""
        self.room.read = self.workers.start_barrier()

    def start_gather(self, mine: Tensor) -> None:
        """Write this worker's piece."""
        self.room.total[self.mine] = mine
        self.workers.sent.shared_bytes += mine.nbytes
        self.request = self.workers.start_barrier()

    def gathered(self) -> Tensor:
        """Wait until all pieces are written, and return a copy."""
        self.request.wait()
        return self.room.total[: sum(self.meeting.sizes)].clone()


def _joined(
    roots: Mapping[Span, Tensor], kept: Sequence[Span], add: Add, made: Made[Tensor] | None
) -> dict[Span, Tensor]:
    return {span: fold(roots, span, add, made) for span in kept}
