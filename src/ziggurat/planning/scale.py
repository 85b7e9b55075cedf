"""Worlds that are larger than what can be recorded: many replicas of the same workers, as vectors.

Under dp all replicas do the same, so that one program a place within a replica describes them all. What differs is when: each has its own
jitter, and every exchange waits for the slowest. So a worker here is a *place* whose clock is a vector over replicas:

    computing            clock += seconds * factors        one of each replica
    a message            over = max(sender, receiver) + t  within each replica
    an exchange of dp    over = max over all replicas + t

Each worker has a device and a cable of its own; what carries many flows over one cable has to be in the formula of the network.

The program of a large world is that of a small one, but for what depends on the number of replicas `D`: a slice of an exchange is
`1/D` of a bucket. Bytes and seconds of anything are `a + b / D`, with `a` and `b` from recordings of two small worlds. (That an exchange
adds up `D` slices costs its bytes here, which are the same for every `D`, not the calls.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ziggurat.planning.meetings import Meetings, find_meetings
from ziggurat.planning.program import Kernel, Mark, Program, Start, Wait
from ziggurat.planning.segments import Action, Jitter, Segment, actions_of, nothing
from ziggurat.planning.simulate import Network

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Replicas:
    """Many replicas of the same workers.

    Attributes:
        programs: Of the workers of the first one, without kernels; their groups are those of the large world.
        actions: Of each of them.
        count: How many there are.
    """

    programs: tuple[Program, ...]
    actions: tuple[tuple[Action, ...], ...]
    count: int


class Scaled(NamedTuple):
    """What a step of many replicas comes to.

    Attributes:
        seconds: Until the last worker is done.
        busy: Of each place within a replica, mean seconds in which it computes.
        waited: Likewise, mean seconds in which it waits for workers of other replicas that are slower.
        idle: Share of all workers' time in which they do not compute.
    """

    seconds: float
    busy: tuple[float, ...]
    waited: tuple[float, ...]
    idle: float


def recorded_replicas(
    programs: Sequence[Program],
    count: int,
    seconds: Callable[[Kernel], float],
    begin: Callable[[Start], float] = nothing,
) -> Replicas:
    """Return replicas as they were recorded.

    Args:
        programs: Of all workers, by rank: those of a replica are neighbours.
        count: Of replicas.
        seconds: Of a kernel.
        begin: Seconds of computing that a message or collective costs whoever begins it.
    """
    of_one = programs[: len(programs) // count]
    actions = tuple(tuple(actions_of(program, seconds, begin)) for program in of_one)
    return Replicas(tuple(_bare(program) for program in of_one), actions, count)


def _bare(program: Program) -> Program:
    return replace(program, events=tuple(e for e in program.events if not isinstance(e, Kernel)))


def grow(small: Replicas, large: Replicas, count: int) -> Replicas:
    """Return more replicas than were recorded, by what two recordings of the same step say.

    Args:
        small: A few replicas.
        large: More of them, each with the same microbatches.
        count: How many there shall be.

    Raises:
        ValueError: If the workers of the two do not do the same things in the same order.
    """
    law = _Law(small.count, large.count, count)
    programs, actions = [], []
    of_one = len(small.programs)
    for a, b in zip(small.programs, large.programs, strict=True):
        if [_kind(event) for event in a.events] != [_kind(event) for event in b.events]:
            raise ValueError(
                f"worker {a.rank} does other things with {small.count} and {large.count} replicas: what it does with {count} is not known"
            )
        events = tuple(
            _grown(one, other, law, of_one, small.count)
            if isinstance(one, Start) and isinstance(other, Start)
            else one
            for one, other in zip(a.events, b.events, strict=True)
        )
        programs.append(Program(a.rank, events, round(law(a.peak_bytes, b.peak_bytes)), dict(a.held_bytes)))
    for mine, others in zip(small.actions, large.actions, strict=True):
        actions.append(tuple(_between(mine, others, law)))
    return Replicas(tuple(programs), tuple(actions), count)


@dataclass(frozen=True)
class _Law:
    """What depends on the number of replicas as ``a + b / D`` does."""

    small: int
    large: int
    wanted: int

    def __call__(self, small: float, large: float) -> float:
        """Return a number of the wanted world from those of the recorded ones; never less than 0."""
        if self.small == self.large or small == large:
            return large
        slope = (small - large) / (1 / self.small - 1 / self.large)
        return max(0.0, large + slope * (1 / self.wanted - 1 / self.large))


def _kind(event: object) -> object:
    return event.kind if isinstance(event, Start) else event


def _grown(one: Start, other: Start, law: _Law, of_one: int, count: int) -> Start:
    """Return a message of the large world: one within a replica as it is, an exchange between all replicas with all of them."""
    if all(rank < of_one for rank in one.group):
        return one
    inside = [rank for rank in one.group if rank < of_one]
    if len(inside) * count != len(one.group) or one.kind == "swap":
        raise ValueError(
            f"a {one.kind} of {len(one.group)} workers is none of all replicas: it is not known how it grows"
        )
    group = tuple(replica * of_one + rank for replica in range(law.wanted) for rank in inside)
    return Start(one.kind, group, num_bytes=round(law(one.num_bytes, other.num_bytes)))


def _between(small: Sequence[Action], large: Sequence[Action], law: _Law) -> list[Action]:
    """Return what a worker does in the large world. Where only one of the recordings computes, the other takes no time."""
    actions: list[Action] = []
    rest, count = list(reversed(large)), 0

    def computing() -> float:
        """Return the seconds that the larger recording computes next; 0 if it does something else."""
        if rest and isinstance(rest[-1], Segment):
            seconds = rest[-1].seconds
            rest.pop()
            return seconds
        return 0.0

    for action in small:
        own = action.seconds if isinstance(action, Segment) else 0.0
        others = computing()
        if own or others:
            actions.append(Segment(law(own, others), count))
            count += 1
        if not isinstance(action, Segment):
            actions.append(action)
            rest.pop()
    return [*actions, Segment(law(0.0, computing()), count)] if rest else actions


def simulate_replicas(
    replicas: Replicas, links: Network, places: Sequence[int] | None = None, jitter: Jitter | None = None
) -> Scaled:
    """Let all workers of all replicas do what they do.

    Args:
        replicas: As recorded, or grown.
        links: What carries messages.
        places: The machine of each worker, by rank; by default all are on one.
        jitter: How computing varies, over all workers by rank.

    Raises:
        ValueError: If workers wait for each other for ever.
    """
    run = _Vectors(replicas, links, places, jitter or Jitter())
    run.to_end()
    ends = np.stack(run.clocks)
    seconds = float(ends.max(initial=0.0))
    busy = tuple(float(one.mean()) for one in run.busy)
    idle = 1 - sum(busy) / (seconds * len(busy)) if seconds else 0.0
    return Scaled(seconds, busy, tuple(float(one.mean()) for one in run.waited), idle)


class _Vectors:
    """The simulation: clocks of each place within a replica, over all replicas."""

    def __init__(
        self, replicas: Replicas, links: Network, places: Sequence[int] | None, jitter: Jitter
    ) -> None:
        self.actions, self.count = replicas.actions, replicas.count
        self.of_one = len(replicas.programs)
        self.meetings: Meetings = find_meetings(replicas.programs)
        self.links, self.jitter = links, jitter
        self.places = places or [0] * (self.count * self.of_one)
        self.clocks = [np.zeros(self.count) for _ in replicas.programs]
        self.busy = [np.zeros(self.count) for _ in replicas.programs]
        self.waited = [np.zeros(self.count) for _ in replicas.programs]
        self.places_in = [0] * self.of_one
        self.came: list[dict[int, Vector]] = [{} for _ in self.meetings.all]
        self.over: list[Vector | None] = [None] * len(self.meetings.all)
        self.late: list[Vector | float] = [0.0] * len(self.meetings.all)
        self.seconds: dict[Start, float] = {}
        self.factors: dict[int, Vector] = {}

    def to_end(self) -> None:
        """Let all do what they can until nobody can do more."""
        moved = True
        while moved:
            moved = sum(self._go_on(place) for place in range(self.of_one)) > 0
        stuck = [place for place in range(self.of_one) if self.places_in[place] < len(self.actions[place])]
        if stuck:
            raise ValueError(
                f"the programs never end: the workers {', '.join(map(str, stuck))} wait for ever"
            )

    def _go_on(self, place: int) -> bool:
        """Let a worker of each replica do what it can, and return whether that was anything."""
        before = self.places_in[place]
        while self.places_in[place] < len(self.actions[place]):
            action = self.actions[place][self.places_in[place]]
            if isinstance(action, Wait):
                if not self._wait(place, action.start):
                    break
            elif isinstance(action, Segment):
                seconds = action.seconds * self._factor(place, action.number)
                self.clocks[place] = self.clocks[place] + seconds
                self.busy[place] += seconds
            elif not isinstance(action, Mark):
                for number in self.meetings.of[place][action.number]:
                    self._come(number, place)
            self.places_in[place] += 1
        return self.places_in[place] > before

    def _wait(self, place: int, start: int) -> bool:
        for number in self.meetings.of[place][start]:
            over = self.over[number]
            if over is None:
                return False
            clock = self.clocks[place]
            self.waited[place] += np.clip(self.late[number] - clock, 0.0, None)
            self.clocks[place] = np.maximum(clock, over)
        return True

    def _come(self, number: int, place: int) -> None:
        meeting, came = self.meetings.all[number], self.came[number]
        came[place] = self.clocks[place]
        if len(came) < len(meeting.comers):
            return
        start = meeting.start
        if start not in self.seconds:
            self.seconds[start] = self.links.seconds(start, self.places)
        last: Vector | float = np.maximum.reduce(list(came.values()))
        if len(start.group) > self.of_one or any(rank >= self.of_one for rank in start.group):
            last = self.late[number] = float(np.max(last))
        self.over[number] = np.full(self.count, last + self.seconds[start])

    def _factor(self, place: int, segment: int) -> Vector:
        if segment not in self.factors:
            if len(self.factors) > 4 * self.of_one:  # workers of a replica are about as far as each other
                self.factors.clear()
            drawn = self.jitter.factors(segment, self.count * self.of_one)
            self.factors[segment] = drawn.reshape(self.count, self.of_one)
        return self.factors[segment][:, place]
