"""From a graph and the places where it is cut to stages: what each computes, receives, sends, and may forget.

calls     0 1 2 3 | 4 5 6 | 7 8 9         two cuts, three stages
value of 1 is used by 3, 5 and 8:          stage 0 sends it to stage 1 and to stage 2, each its own copy
value of 4 is used by 6:                   it stays in stage 1, and is forgotten after 6
memory of 1 is overwritten by 4 (a view):  stage 2 is sent the value of 1 by stage 1, as it was left there
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import nn

from ziggurat.errors import UserError, nearest
from ziggurat.parallel.graph.arguments import Arguments
from ziggurat.parallel.graph.graph import INPUT, Call, Graph, Value


@dataclass
class Stage:
    """A part of the network.

    Attributes:
        number: From 0.
        first: Number of its first call in the graph.
        calls: Its calls, in order.
        receives: Values that it needs, by the stage that makes them; in order of the values.
        sends: Values that others need, by the stage that needs them; in order of the values.
        forgets: After each call (by its place in `calls`) the values that the stage needs no more.
        overwrites: Received values (and the network's input) whose memory a call of the stage overwrites.
    """

    number: int
    first: int
    calls: list[Call] = field(default_factory=list)
    receives: dict[int, list[Value]] = field(default_factory=dict)
    sends: dict[int, list[Value]] = field(default_factory=dict)
    forgets: dict[int, list[Value]] = field(default_factory=dict)
    overwrites: set[Value] = field(default_factory=set)

    @cached_property
    def arguments(self) -> list[Arguments]:
        """What each of its calls is called with: looked through once, however many microbatches there are."""
        return [Arguments(call) for call in self.calls]

    def sent(self) -> list[Value]:
        """Return each value that others need once."""
        return sorted({value for values in self.sends.values() for value in values})


def find_places(graph: Graph, cut: Sequence[str]) -> list[int]:
    """Return the places of the layers at which new stages start.

    Args:
        graph: Of images of some size.
        cut: Names of layers, in the order in which they are called.

    Raises:
        UserError: Listing every name that is unknown, closed to cuts, or out of order.
    """
    places = graph.places()
    faults = []
    for name in cut:
        if name not in graph.starts:
            faults.append(f"plan.cut names '{name}', which is not called: {nearest(name, list(places))}")
        elif name not in places:
            faults.append(
                f"plan.cut names '{name}', where the network cannot be cut (nothing lies before it, or it parts a "
                f"buffer or a memory that is overwritten from its other uses): {nearest(name, list(places))}"
            )
    if faults:
        raise UserError(faults)
    found = [places[name] for name in cut]
    if any(one >= other for one, other in itertools.pairwise(found)):
        called = ",".join(sorted(dict.fromkeys(cut), key=places.__getitem__))
        raise UserError(
            f"plan.cut must name layers in the order in which they are called, with something computed between: got "
            f"{','.join(cut)}; the order is {called}"
        )
    return found


def make_stages(graph: Graph, places: Sequence[int]) -> list[Stage]:
    """Cut a graph before some of its calls.

    Args:
        graph: The graph.
        places: Numbers of calls, rising.
    """
    bounds = [0, *places, len(graph.calls)]
    stages = [
        Stage(number, bounds[number], graph.calls[bounds[number] : bounds[number + 1]])
        for number in range(len(places) + 1)
    ]

    def stage_of(call: int) -> int:
        return bisect.bisect_right(places, call)

    users = {value: {stage_of(number) for number in numbers} for value, numbers in graph.users().items()}
    for value in graph.output_values():
        users.setdefault(value, set()).add(len(places))
    changes: dict[int, set[int]] = {}
    for number, call in enumerate(graph.calls):
        for value in call.writes:
            changes.setdefault(graph.memory_of[value], set()).add(stage_of(number))
    for value in sorted(users):
        maker = 0 if value.call == INPUT else stage_of(value.call)
        changers = changes.get(graph.memory_of.get(value, -1), set())
        for user, source in _hops(maker, users[value], changers):
            stages[source].sends.setdefault(user, []).append(value)
            stages[user].receives.setdefault(source, []).append(value)
    for stage in stages:
        _find_forgets(stage, set(graph.output_values()) if stage.number == len(places) else set())
        memories = {graph.memory_of.get(value) for call in stage.calls for value in call.writes}
        received = [value for values in stage.receives.values() for value in values]
        received += [Value(INPUT, 0)] if stage.number == 0 else []
        stage.overwrites = {value for value in received if graph.memory_of.get(value) in memories - {None}}
    return stages


def _hops(maker: int, users: set[int], changers: set[int]) -> list[tuple[int, int]]:
    """Return each stage that needs a value with the one that it has it from, in order: the last before it that has made or changed it.

    Args:
        maker: The stage that makes it.
        users: Those that use it.
        changers: Those that overwrite its memory.

    Example:
        >>> _hops(0, {0, 1, 4}, set())
        [(1, 0), (4, 0)]
        >>> _hops(0, {0, 1, 4}, {0, 2})  # 2 overwrites it by another name
        [(1, 0), (2, 0), (4, 2)]
    """
    found, wanted = [], set(users)
    for user in range(max(wanted), maker, -1):
        if user in wanted:
            source = max((one for one in changers if maker < one < user), default=maker)
            wanted.add(source)
            found.append((user, source))
    return found[::-1]


def _find_forgets(stage: Stage, outputs: set[Value]) -> None:
    """Say after which call a value is needed no more, neither here nor by those that it is sent to."""
    kept = outputs | set(stage.sent())
    last = {value: place for place, call in enumerate(stage.calls) for value in call.uses}
    for value, place in last.items():
        if value not in kept:
            stage.forgets.setdefault(place, []).append(value)


def state_names(stages: Sequence[Stage], model: nn.Module) -> list[set[str]]:
    """Return the names of the parameters and buffers of each stage.

    What several stages use is in each of them; what no stage uses is in the last.
    """
    names = [{name for call in stage.calls for name in call.states} for stage in stages]
    known = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    names[-1] |= known.difference(*names)
    return names
