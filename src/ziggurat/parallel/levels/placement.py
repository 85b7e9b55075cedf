"""Placing the calls of a network on workers: branches that do not wait for each other are computed at the same time.

    worker 0   stem -- p3: conv conv conv conv --.-- join
    worker 1        '- p4: conv conv, p5: conv --'

The calls are placed in the order in which one worker makes them, each on the worker that can end it first: when what it
needs has arrived there, and the worker's earlier calls are done. So every worker keeps that order, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ziggurat.errors import UserError
from ziggurat.parallel.pipeline.graph import INPUT, Graph, Value

MESSAGE_SECONDS = 2e-4  # assumed: a message between two workers of one machine
BYTES_A_SECOND = 1e9  # assumed likewise
LEAST_APART = 0.02  # of the work: with less on the other workers, nothing is gained


class NoBranches(UserError):  # noqa: N818 - reads as what happened
    """A network without parallel branches; the message says what was found, and what helps."""


@dataclass(frozen=True)
class CallCost:
    """What one call costs.

    Attributes:
        seconds: Of its forward pass.
        draws: Whether it draws random numbers.
    """

    seconds: float
    draws: bool = False


@dataclass(frozen=True)
class Placement:
    """Where each call is computed.

    Attributes:
        worker_of: By the number of the call.
        seconds: Of forward on each worker.
    """

    worker_of: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def bound(self) -> float:
        """How many times faster than one worker these can be at most: all work by that of the busiest worker."""
        return sum(self.seconds) / max(self.seconds)


def place(graph: Graph, costs: Sequence[CallCost], num_workers: int) -> Placement:
    """Place the calls of a graph.

    Args:
        graph: Of images of some size.
        costs: Of each call.
        num_workers: Of the lp axis.

    Raises:
        NoBranches: If hardly anything can be computed at the same time.
    """
    groups = _groups(graph, costs)
    worker_of_group: dict[int, int] = {}
    worker_of: list[int] = []
    free, seconds = [0.0] * num_workers, [0.0] * num_workers
    done: list[float] = []

    def arrival(value: Value, worker: int) -> float:
        at, source = (0.0, 0) if value.call == INPUT else (done[value.call], worker_of[value.call])
        if source == worker:
            return at
        return at + MESSAGE_SECONDS + graph.num_bytes.get(value, 0) / BYTES_A_SECOND

    for number, (call, cost) in enumerate(zip(graph.calls, costs, strict=True)):
        fixed = worker_of_group.get(groups[number])
        candidates = range(num_workers) if fixed is None else [fixed]
        if number == 0:
            candidates = [0]
        ends = {w: max([free[w], *(arrival(v, w) for v in call.uses)]) + cost.seconds for w in candidates}
        worker = min(ends, key=lambda w: (ends[w], w))
        worker_of_group[groups[number]] = worker
        worker_of.append(worker)
        done.append(ends[worker])
        free[worker] = ends[worker]
        seconds[worker] += cost.seconds
    placement = Placement(tuple(worker_of), tuple(seconds))
    apart = 1 - max(seconds) / sum(seconds)
    if apart < LEAST_APART:
        raise NoBranches(
            f"lp needs parallel branches (levels of a pyramid, heads on several levels), which compute at least "
            f"{LEAST_APART:.0%} of the work beside the busiest worker: found {apart:.1%} in {len(costs)} calls on "
            f"{num_workers} workers; use dp, sp or pp, or a larger input"
        )
    return placement


def _groups(graph: Graph, costs: Sequence[CallCost]) -> list[int]:
    """Return a number for each call; calls of the same number must be on one worker.

    These are the users of a buffer that changes (in the order of one worker, its numbers are those of one worker), all
    that draw random numbers (likewise), and an overwritten tensor with the views of its memory.
    """
    parent = list(range(len(graph.calls)))

    def root(number: int) -> int:
        while parent[number] != number:
            number = parent[number]
        return number

    first_user: dict[str, int] = {}
    for number, (call, cost) in enumerate(zip(graph.calls, costs, strict=True)):
        shared = [name for name in call.states if name in graph.written_states]
        for name in [*shared, *(["random numbers"] if cost.draws else [])]:
            parent[root(number)] = root(first_user.setdefault(name, number))
    for first, last in graph.overwritten_ranges():
        for number in range(max(first, 0), last):
            parent[root(number + 1)] = root(number)
    return [root(number) for number in range(len(graph.calls))]
