"""Choosing stages: the slowest stage as fast as possible, by dynamic programming, within a memory bound."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ziggurat.errors import UserError
from ziggurat.parallel.graph.costs import Costs, costs_of
from ziggurat.parallel.graph.graph import Graph

SLACKS = (1.02, 1.1, 1.5, 4.0, math.inf)  # times equal stages: where the slowest stage is looked for
ROUNDING = 1e-9


@dataclass(frozen=True)
class Unit:
    """What lies between two neighbouring places where a network can be cut.

    Attributes:
        name: Layer that starts it, see `graph`; empty for the first.
        seconds: Of forward and backward.
        kept_bytes: Activations that are kept from forward to backward, but for those that come from before it.
        states: Bytes of its parameters and buffers, by name.
        crossing_bytes: Bytes of the tensors that cross a cut before it.
        forward_seconds: Of forward alone.
    """

    name: str
    seconds: float
    kept_bytes: int = 0
    states: tuple[tuple[str, int], ...] = ()
    crossing_bytes: int = 0
    forward_seconds: float = 0.0


@dataclass(frozen=True)
class StageCost:
    """What a stage costs.

    Attributes:
        name: Layer that starts it; empty for the first.
        seconds: Of forward and backward of a microbatch.
        state_bytes: Of parameters and buffers.
        kept_bytes: Activations of one microbatch that are kept from forward to backward, with what is received.
        crossing_bytes: Of a microbatch's tensors that cross the cut before it.
        forward_seconds: Of forward alone.
    """

    name: str
    seconds: float
    state_bytes: int
    kept_bytes: int
    crossing_bytes: int
    forward_seconds: float = 0.0


def units_of(graph: Graph, costs: Costs, state_bytes: Mapping[str, int]) -> list[Unit]:
    """Return the pieces between all places where a network can be cut, in order, by what their calls cost.

    Args:
        graph: Of the network.
        costs: Of its calls, backward included.
        state_bytes: Of each parameter and buffer.
    """
    names: dict[int, str] = {0: ""}
    for name, place in graph.places().items():
        names.setdefault(place, name)
    places = sorted(names)
    of_call = costs_of(graph, costs)
    units = []
    for first, stop in itertools.pairwise([*places, len(graph.calls)]):
        mine = of_call[first:stop]
        forward = sum(cost.seconds for cost in mine)
        used = (name for call in graph.calls[first:stop] for name in call.states)
        units.append(
            Unit(
                names[first],
                forward + sum(cost.backward_seconds or 0.0 for cost in mine),
                sum(cost.kept_bytes or 0 for cost in mine),
                tuple((name, state_bytes[name]) for name in used if name in state_bytes),
                graph.live_bytes(first) if first else 0,
                forward,
            )
        )
    return units


def growing(units: Sequence[Unit], first: int) -> Iterator[tuple[int, StageCost]]:
    """Yield each end of a stage that starts with a unit, and what the stage costs; what several units use counts once."""
    start = units[first]
    states: set[str] = set()
    seconds = forward_seconds = 0.0
    state_bytes, kept_bytes = 0, start.crossing_bytes
    for stop, unit in enumerate(itertools.islice(units, first, None), first + 1):
        seconds += unit.seconds
        forward_seconds += unit.forward_seconds
        kept_bytes += unit.kept_bytes
        for name, num_bytes in unit.states:
            if name not in states:
                states.add(name)
                state_bytes += num_bytes
        yield (
            stop,
            StageCost(start.name, seconds, state_bytes, kept_bytes, start.crossing_bytes, forward_seconds),
        )


def cost_of(units: Sequence[Unit]) -> StageCost:
    """Return the cost of units that make a stage."""
    *_, (_, cost) = growing(units, 0)
    return cost


def balance(
    units: Sequence[Unit],
    num_stages: int,
    memory: Callable[[int, StageCost], int] = lambda stage, cost: cost.state_bytes,
    max_bytes: int = 0,
    seconds: Callable[[int, StageCost], float] = lambda stage, cost: cost.seconds,
) -> list[str]:
    """Return the layers at which new stages start, so that the slowest stage is as fast as possible.

    Of cuts with the same slowest stage, the one over which the fewest bytes go.

    Args:
        units: Of the whole network, in order.
        num_stages: How many stages.
        memory: Bytes that a stage needs, from its number and its cost; not fewer for a longer stage.
        max_bytes: Most bytes of a stage; 0 for no bound.
        seconds: That a stage takes, from its number and its cost: those of its units at least, and not fewer for a longer stage.

    Raises:
        UserError: If there are fewer units than stages, or no cut keeps the bound.

    Example:
        >>> balance([Unit("", 3), Unit("a", 1), Unit("b", 1), Unit("c", 1)], num_stages=2)
        ['a']
    """
    if len(units) < num_stages:
        raise UserError(
            f"the network can be cut into {len(units)} stages at most: got {num_stages}; lower pp, or take another "
            "plan.schedule than interleaved"
        )

    def fits(stage: int, cost: StageCost) -> bool:
        return not max_bytes or memory(stage, cost) <= max_bytes

    def search(
        limit: float, join: Callable[[int, float, StageCost], float]
    ) -> tuple[float, list[int]] | None:
        def allowed(stage: int, cost: StageCost) -> bool:
            return seconds(stage, cost) <= limit and fits(stage, cost)

        return _search(units, num_stages, allowed, join, limit)

    fastest = None
    ideal = sum(unit.seconds for unit in units) / num_stages
    for slack in SLACKS:  # the nearer to equal stages, the fewer cuts there are to look at
        fastest = search(slack * ideal, lambda stage, so_far, cost: max(so_far, seconds(stage, cost)))
        if fastest is not None:
            break
    if fastest is None:
        raise UserError(
            f"no cut into {num_stages} stages keeps every stage within plan.max_bytes: got {max_bytes}; raise it, or "
            "take more stages"
        )
    lightest = search(fastest[0], lambda stage, so_far, cost: so_far + cost.crossing_bytes)
    assert lightest is not None  # the fastest is one
    return [units[first].name for first in lightest[1][1:]]


def _search(
    units: Sequence[Unit],
    num_stages: int,
    allowed: Callable[[int, StageCost], bool],
    join: Callable[[int, float, StageCost], float],
    limit: float,
) -> tuple[float, list[int]] | None:
    """Return the smallest value of a cut and the first unit of each stage; None where no cut is allowed.

    Args:
        units: Of the whole network, in order.
        num_stages: How many stages.
        allowed: Whether a stage may cost so much: if not, no longer one may.
        join: From a stage's number, the value of the stages before and its cost to the value with it; rises with the value.
        limit: Most seconds of an allowed stage.
    """
    after = [0.0]  # seconds of the last n units
    for unit in reversed(units):
        after.append(after[-1] + unit.seconds)
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}  # of the first n units in so many stages
    for left in reversed(range(num_stages)):
        stage = num_stages - 1 - left
        most_after = left * limit * (1 + ROUNDING) if left else 0.0
        following: dict[int, tuple[float, list[int]]] = {}
        for first, (so_far, firsts) in best.items():
            for stop, cost in growing(units, first):
                if stop > len(units) - left or not allowed(stage, cost):
                    break
                if after[len(units) - stop] <= most_after:  # else the stages to come could not take the rest
                    found = (join(stage, so_far, cost), [*firsts, first])
                    following[stop] = min(found, following.get(stop, found))
        best = following
    return best.get(len(units))
