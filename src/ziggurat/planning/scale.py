"""Worlds of thousands of workers: many replicas of the same workers, as vectors.

Under dp all replicas do the same, so that one program a place within a replica describes them all. What differs is when: each has its own
jitter, and an exchange waits for the slowest of those that meet. So a worker here is a *place* whose clock is a vector over replicas:

    computing            clock += seconds * factors                one of each replica
    a message            over = max(sender, receiver) + t          within each replica
    an exchange          over = max over the replicas that meet + t

The replicas that meet are all of them, or of a tier every so many-th: of tiers of 8 and 4 replicas, eight neighbours, or four with 8 between.

Each worker has a device of its own. What leaves a machine shares its cables with what the machine's other workers send at the same time, as
they all do the same: messages wait for no latency but their own, and their bytes take as many times as long.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ziggurat.planning.meetings import Meetings, find_meetings
from ziggurat.planning.program import Kernel, Mark, Program, Start, Wait
from ziggurat.planning.segments import Action, Jitter, Segment, actions_of, nothing
from ziggurat.planning.simulate import Network, without_bytes

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
        waited: Likewise, mean seconds in which it waits for workers that are slower.
        idle: Share of all workers' time in which they do not compute.
    """

    seconds: float
    busy: tuple[float, ...]
    waited: tuple[float, ...]
    idle: float


def replicas_of(
    programs: Sequence[Program],
    count: int,
    seconds: Callable[[Kernel], float],
    begin: Callable[[Start], float] = nothing,
) -> Replicas:
    """Return replicas that do what the first one does.

    Args:
        programs: Of the workers of the first replica, by rank; those of a replica are neighbours.
        count: Of replicas.
        seconds: Of a kernel.
        begin: Seconds of computing that a message or collective costs whoever begins it.
    """
    actions = tuple(tuple(actions_of(program, seconds, begin)) for program in programs)
    return Replicas(tuple(_bare(program, len(programs)) for program in programs), actions, count)


def _bare(program: Program, of_one: int) -> Program:
    """Return a program without kernels, whose messages between replicas are collectives: all replicas send as this one."""
    events = (
        event._replace(
            kind="all-to-all", num_bytes=sum(size for _, size in event.sends), sends=(), receives=()
        )
        if isinstance(event, Start) and event.kind == "swap" and max(event.group) >= of_one
        else event
        for event in program.events
        if not isinstance(event, Kernel)
    )
    return replace(program, events=tuple(events))


def simulate_replicas(
    replicas: Replicas, links: Network, places: Sequence[int] | None = None, jitter: Jitter | None = None
) -> Scaled:
    """Let all workers of all replicas do what they do.

    Args:
        replicas: See `replicas_of`.
        links: What carries messages.
        places: The machine of each worker, by rank; by default all are on one.
        jitter: How computing varies, over all workers by rank.

    Raises:
        ValueError: If workers wait for each other for ever, or it is not known which replicas meet.
    """
    run = _Vectors(replicas, links, places, jitter or Jitter())
    run.to_end()
    ends = np.stack(run.clocks)
    seconds = float(ends.max(initial=0.0))
    busy = tuple(float(one.mean()) for one in run.busy)
    idle = 1 - sum(busy) / (seconds * len(busy)) if seconds else 0.0
    return Scaled(seconds, busy, tuple(float(one.mean()) for one in run.waited), idle)


class Meet(NamedTuple):
    """Which replicas meet where the first one does.

    Attributes:
        size: How many; 1 of a message within each replica.
        stride: Between neighbours.
    """

    size: int
    stride: int

    def latest(self, clocks: Vector) -> Vector:
        """Return of each replica the latest clock of those that it meets.

        Example:
            >>> Meet(2, 2).latest(np.array([5.0, 2.0, 3.0, 4.0]))
            array([5., 4., 5., 4.])
        """
        if self.size == 1:
            return clocks
        met = clocks.reshape(-1, self.size, self.stride)
        return np.broadcast_to(met.max(axis=1, keepdims=True), met.shape).reshape(-1)


def meet_of(start: Start, of_one: int, count: int) -> Meet:
    """Return which replicas meet in a message or collective of the first one.

    Args:
        start: Of a worker of the first replica.
        of_one: Workers of a replica.
        count: Of replicas.

    Raises:
        ValueError: If these are not replicas at equal distances, with the same workers each.

    Example:
        >>> meet_of(Start("barrier", (1, 5, 9, 13)), 2, 16)
        Meet(size=4, stride=2)
    """
    replicas = sorted({rank // of_one for rank in start.group})
    stride = replicas[1] - replicas[0] if len(replicas) > 1 else 1
    inside = {rank % of_one for rank in start.group}
    even = replicas == list(range(replicas[0], replicas[0] + len(replicas) * stride, stride))
    if not even or len(inside) * len(replicas) != len(start.group) or count % (len(replicas) * stride):
        raise ValueError(
            f"a {start.kind} of {len(start.group)} workers of {len(replicas)} of {count} replicas: it is not known which others meet likewise"
        )
    return Meet(len(replicas), stride)


def all_workers(programs: Sequence[Program], count: int) -> list[Program]:
    """Return the programs of all replicas' workers, by rank, that do what those of the first do, each with those that it meets.

    Args:
        programs: Of the workers of the first replica.
        count: Of replicas.

    Raises:
        ValueError: If it is not known which replicas meet.

    Example:
        >>> first = [Program(0, (Start("all-reduce", (0, 2), num_bytes=8),))]
        >>> [program.events[0].group for program in all_workers(first, 4)]
        [(0, 2), (1, 3), (0, 2), (1, 3)]
    """
    of_one = len(programs)
    found = []
    for replica in range(count):
        for program in programs:
            events = tuple(
                _of_replica(event, replica, of_one, count) if isinstance(event, Start) else event
                for event in program.events
            )
            found.append(replace(program, rank=replica * of_one + program.rank, events=events))
    return found


def _of_replica(start: Start, replica: int, of_one: int, count: int) -> Start:
    size, stride = meet_of(start, of_one, count)
    first = replica - replica // stride % size * stride
    return _shifted(start, first * of_one)


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
        self.on_machine = Counter(self.places)
        self.leaving = self._leaving()
        self.clocks = [np.zeros(self.count) for _ in replicas.programs]
        self.busy = [np.zeros(self.count) for _ in replicas.programs]
        self.waited = [np.zeros(self.count) for _ in replicas.programs]
        self.places_in = [0] * self.of_one
        self.came: list[dict[int, Vector]] = [{} for _ in self.meetings.all]
        self.over: list[Vector | None] = [None] * len(self.meetings.all)
        self.late: list[Vector | float] = [0.0] * len(self.meetings.all)
        self.known: dict[Start, tuple[float, Meet]] = {}
        self.factors: dict[int, Vector] = {}

    def _leaving(self) -> Counter[int]:
        """Return how many workers of each machine of the first replica send messages of one to another machine."""
        found = {
            meeting.comers[0]
            for meeting in self.meetings.all
            if meeting.start.kind == "swap" and len({self.places[rank] for rank in meeting.comers}) > 1
        }
        return Counter(self.places[rank] for rank in found)

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
        seconds, meet = self._known(meeting.start)
        self.late[number] = late = meet.latest(np.maximum.reduce(list(came.values())))
        self.over[number] = late + seconds

    def _known(self, start: Start) -> tuple[float, Meet]:
        """Return how long a message or collective takes, and which replicas meet in it."""
        if start not in self.known:
            self.known[start] = self._seconds(start), meet_of(start, self.of_one, self.count)
        return self.known[start]

    def _seconds(self, start: Start) -> float:
        """Return how long a message or collective takes, where the slowest of the replicas does it."""
        return max(self._seconds_of(_shifted(start, shift)) for shift in self._shifts(start))

    def _shifts(self, start: Start) -> range:
        """Return by how many workers replicas are shifted that lie otherwise on their machines; of tiers all lie alike."""
        if max(start.group) >= self.of_one:
            return range(1)
        each = self.on_machine[self.places[0]]
        alike = min(self.count, each // math.gcd(each, self.of_one))
        return range(0, alike * self.of_one, self.of_one)

    def _seconds_of(self, start: Start) -> float:
        seconds = self.links.seconds(start, self.places)
        on = Counter(self.places[rank] for rank in start.group)
        if len(on) == 1:
            return seconds
        if start.kind == "swap":
            flows = float(self.leaving.get(self.places[start.group[0]], 1))
        else:
            flows = max(self.on_machine[place] / mine for place, mine in on.items())
        latency = self.links.seconds(without_bytes(start), self.places)
        return latency + (seconds - latency) * flows

    def _factor(self, place: int, segment: int) -> Vector:
        if segment not in self.factors:
            if len(self.factors) > 4 * self.of_one:  # workers of a replica are about as far as each other
                self.factors.clear()
            drawn = self.jitter.factors(segment, self.count * self.of_one)
            self.factors[segment] = drawn.reshape(self.count, self.of_one)
        return self.factors[segment][:, place]


def _shifted(start: Start, shift: int) -> Start:
    """Return what another replica does where the first one does this."""
    if not shift:
        return start
    sends, receives = (
        tuple((rank + shift, size) for rank, size in some) for some in (start.sends, start.receives)
    )
    return start._replace(group=tuple(rank + shift for rank in start.group), sends=sends, receives=receives)
