"""Placing the calls of a network on workers: branches that do not wait for each other are computed at the same time.

    worker 0   stem -- p3: conv conv conv conv --.-- join
    worker 1        '- p4: conv conv, p5: conv --'

The calls are placed in the order in which one worker makes them, each on the worker that can end it first: when what it
needs has arrived there, and the worker's earlier calls are done. So every worker keeps that order, too. Any placement
that keeps together what `together` names gives the numbers of one worker; which one is taken is a matter of speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ziggurat.errors import UserError
from ziggurat.parallel.graph.costs import CallCost, Costs, costs_of
from ziggurat.parallel.graph.graph import INPUT, Graph, Value

MESSAGE_SECONDS = 2e-4  # assumed: a message between two workers of one machine
BYTES_A_SECOND = 1e9  # assumed likewise
LEAST_APART = 0.02  # of the work: with less on the other workers, nothing is gained


class NoBranches(UserError):  # noqa: N818 - reads as what happened
    """A network without parallel branches; the message says what was found, and what helps."""


@dataclass(frozen=True)
class Placement:
    """Where each call is computed.

    Attributes:
        worker_of: By the number of the call; the first call is on the first worker.
        seconds: Of forward on each worker.
        span: Seconds from the first call to the end of the last one, if messages took none.
    """

    worker_of: tuple[int, ...]
    seconds: tuple[float, ...]
    span: float

    @property
    def bound(self) -> float:
        """How many times faster than one worker these can be at most: all work by the time until all is done."""
        return sum(self.seconds) / self.span if self.span else 1.0

    @property
    def apart(self) -> float:
        """The share of the work that lies on other workers than the busiest."""
        return 1 - max(self.seconds) / sum(self.seconds) if any(self.seconds) else 0.0


def place(graph: Graph, costs: Costs, num_workers: int) -> Placement:
    """Place the calls of a graph: a pure function, so that every worker finds the same.

    Args:
        graph: Of images of some size.
        costs: As measured, of images of this or another size.
        num_workers: Of the lp axis.
    """
    of_call = costs_of(graph, costs)
    groups = together(graph, of_call)
    worker_of_group: dict[int, int] = {}
    worker_of: list[int] = []
    free, seconds = [0.0] * num_workers, [0.0] * num_workers
    done: list[float] = []

    def arrival(value: Value, worker: int) -> float:
        at, source = (0.0, 0) if value.call == INPUT else (done[value.call], worker_of[value.call])
        if source == worker:
            return at
        return at + MESSAGE_SECONDS + graph.num_bytes.get(value, 0) / BYTES_A_SECOND

    for number, (call, cost) in enumerate(zip(graph.calls, of_call, strict=True)):
        fixed = 0 if number == 0 else worker_of_group.get(groups[number])
        candidates = range(num_workers) if fixed is None else [fixed]
        ends = {w: max([free[w], *(arrival(v, w) for v in call.uses)]) + cost.seconds for w in candidates}
        worker = min(ends, key=lambda w: (ends[w], w))
        worker_of_group[groups[number]] = worker
        worker_of.append(worker)
        done.append(ends[worker])
        free[worker] = ends[worker]
        seconds[worker] += cost.seconds
    return Placement(tuple(worker_of), tuple(seconds), span_of(graph, of_call, worker_of))


def span_of(graph: Graph, costs: Sequence[CallCost], worker_of: Sequence[int]) -> float:
    """Return when the last call ends, each worker calling in its order what is placed on it; messages take no time."""
    free: dict[int, float] = {}
    done: list[float] = []
    for call, cost, worker in zip(graph.calls, costs, worker_of, strict=True):
        needed = [done[value.call] for value in call.uses if value.call != INPUT]
        free[worker] = max([free.get(worker, 0.0), *needed]) + cost.seconds
        done.append(free[worker])
    return max(done, default=0.0)


def refuse_chain(placement: Placement) -> None:
    """Refuse a network that gains nothing.

    Raises:
        NoBranches: If hardly anything can be computed at the same time.
    """
    if placement.apart < LEAST_APART:
        raise NoBranches(
            f"lp needs parallel branches (levels of a pyramid, heads on several levels), which compute at least "
            f"{LEAST_APART:.0%} of the work beside the busiest worker: found {placement.apart:.1%} in "
            f"{len(placement.worker_of)} calls on {len(placement.seconds)} workers; use dp, sp or pp, or a larger input"
        )


def together(graph: Graph, costs: Sequence[CallCost]) -> list[int]:
    """Return a number for each call; calls of the same number must be on one worker.

    These are the users of a buffer that changes (in the order of one worker, its numbers are those of one worker), all
    that draw random numbers (likewise), an overwritten tensor with the views of its memory, and a tensor with the hooks on it.
    """
    parent = list(range(len(graph.calls)))

    def root(number: int) -> int:
        while parent[number] != number:
            number = parent[number]
        return number

    first_user: dict[str, int] = {}
    for number, (call, cost) in enumerate(zip(graph.calls, costs, strict=True)):
        shared = [name for name in call.states if name in graph.written_states]
        draws = cost.draws or number in graph.numbers  # which the worker that draws goes on from
        for name in [*shared, *(["random numbers"] if draws else [])]:
            parent[root(number)] = root(first_user.setdefault(name, number))
    for first, last in graph.overwritten_ranges() + graph.hooked_ranges():
        for number in range(max(first, 0), last):
            parent[root(number + 1)] = root(number)
    return [root(number) for number in range(len(graph.calls))]
