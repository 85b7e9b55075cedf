"""Choosing stages: the slowest stage as fast as possible, by dynamic programming, within a memory bound."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ziggurat.errors import UserError


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


def cost_of(units: Sequence[Unit]) -> StageCost:
    """Return the cost of units that make a stage; what several of them use counts once."""
    states = dict(itertools.chain.from_iterable(unit.states for unit in units))
    return StageCost(
        units[0].name,
        sum(unit.seconds for unit in units),
        sum(states.values()),
        sum(unit.kept_bytes for unit in units) + units[0].crossing_bytes,
        units[0].crossing_bytes,
        sum(unit.forward_seconds for unit in units),
    )


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
        memory: Bytes that a stage needs, from its number and its cost.
        max_bytes: Most bytes of a stage; 0 for no bound.
        seconds: That a stage takes, from its number and its cost.

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
    costs = {
        (first, stop): cost_of(units[first:stop])
        for first in range(len(units))
        for stop in range(first + 1, len(units) + 1)
    }

    def fits(stage: int, cost: StageCost) -> bool:
        return not max_bytes or memory(stage, cost) <= max_bytes

    fastest = _search(costs, num_stages, fits, lambda stage, so_far, cost: max(so_far, seconds(stage, cost)))
    if fastest is None:
        raise UserError(
            f"no cut into {num_stages} stages keeps every stage within plan.max_bytes: got {max_bytes}; raise it, or "
            "take more stages"
        )
    limit = fastest[0]
    lightest = _search(
        costs,
        num_stages,
        lambda stage, cost: fits(stage, cost) and seconds(stage, cost) <= limit,
        lambda stage, so_far, cost: so_far + cost.crossing_bytes,
    )
    assert lightest is not None  # the fastest is one
    return [units[first].name for first in lightest[1][1:]]


def _search(
    costs: Mapping[tuple[int, int], StageCost],
    num_stages: int,
    allowed: Callable[[int, StageCost], bool],
    join: Callable[[int, float, StageCost], float],
) -> tuple[float, list[int]] | None:
    """Return the smallest value of a cut and the first unit of each stage; None where no cut is allowed.

    Args:
        costs: Of the units ``[first, stop)`` as one stage.
        num_stages: How many stages.
        allowed: Whether a stage may cost so much.
        join: From a stage's number, the value of the stages before and its cost to the value with it; rises with the value.
    """
    num_units = max(stop for _, stop in costs)
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}  # of the first n units in so many stages
    for stage in range(num_stages):
        following: dict[int, tuple[float, list[int]]] = {}
        for first, (so_far, firsts) in best.items():
            for stop in range(first + 1, num_units - (num_stages - stage - 1) + 1):
                cost = costs[first, stop]
                if allowed(stage, cost):
                    found = (join(stage, so_far, cost), [*firsts, first])
                    following[stop] = min(found, following.get(stop, found))
        best = following
    return best.get(num_units)
