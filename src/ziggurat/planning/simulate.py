"""A step that is taken on paper: when each worker computes, whom it waits for, and when all are done.

Every worker goes through its program. Computing takes a core of its machine for as long as the costs say, and longer where more
workers compute than there are cores. A message, or a collective, goes on by itself from when all of its workers have come to it; a
worker stands still only where its program waits. What goes between machines takes the cables of these machines, which it shares
with all else that goes there.

`scale.simulate_replicas` is the same for worlds of thousands, where workers have a device and a cable of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ziggurat.parallel.pipeline.timing import Doing, Span
from ziggurat.planning.meetings import Meeting, find_meetings
from ziggurat.planning.program import Kernel, Mark, Program, Start, Wait
from ziggurat.planning.segments import Action, Jitter, Segment, actions_of, nothing
from ziggurat.planning.sharing import Resource, Sharing

WAY = -1  # in the place of a worker's rank: what a message does on its way


class Network(Protocol):
    """What carries messages: `network.Links`, or what stands in its place."""

    def seconds(self, start: Start, places: Sequence[int]) -> float:
        """Return how long a message or collective takes once all have come, if nothing else is carried.

        Args:
            start: Of a message from one worker to another a swap whose group are these.
            places: The machine of each worker, by rank.
        """
        ...


def without_bytes(start: Start) -> Start:
    """Return a message or collective that carries nothing: what it takes is its latency, which no cable shares.

    Example:
        >>> without_bytes(Start("swap", (0, 1), sends=((1, 64),))).sends
        ((1, 0),)
    """
    sends, receives = (tuple((rank, 0) for rank, _ in some) for some in (start.sends, start.receives))
    return start._replace(sends=sends, receives=receives, num_bytes=0)


@dataclass(frozen=True)
class Simulated:
    """What a step comes to.

    Attributes:
        seconds: Until the last worker is done.
        busy: Of each worker, the seconds in which it computes.
        waits: By the worker that waits and the one that it waits for, seconds; what it waits for itself is the network.
        bytes_sent: By each worker, as a ring carries collectives.
        peak_bytes: Most bytes of tensors that are alive at once, of each worker.
        spans: Of each worker, what it does when.
        guessed: Share of the seconds of all kernels that was not measured, as whoever gives the seconds knows.
    """

    seconds: float
    busy: tuple[float, ...]
    waits: tuple[tuple[float, ...], ...]
    bytes_sent: tuple[int, ...]
    peak_bytes: tuple[int, ...]
    spans: tuple[tuple[Span, ...], ...]
    guessed: float = 0.0

    @property
    def idle(self) -> float:
        """Share of all workers' time in which they do not compute."""
        whole = self.seconds * len(self.busy)
        return 1 - sum(self.busy) / whole if whole else 0.0

    def repeated(self, times: float) -> Simulated:
        """Return what comes of doing the same so many times; of the spans, and of memory, those of the first time."""
        return replace(
            self,
            seconds=self.seconds * times,
            busy=tuple(busy * times for busy in self.busy),
            waits=tuple(tuple(one * times for one in row) for row in self.waits),
            bytes_sent=tuple(round(count * times) for count in self.bytes_sent),
        )


def simulate(
    programs: Sequence[Program],
    seconds: Callable[[Kernel], float],
    links: Network,
    cores: float | None = None,
    places: Sequence[int] | None = None,
    jitter: Jitter | None = None,
    begin: Callable[[Start], float] = nothing,
    carry: Callable[[Start], float] = nothing,
    before: float = 0.0,
) -> Simulated:
    """Let every worker do its program, as soon as what it waits for is there.

    Args:
        programs: In order of rank.
        seconds: Of a kernel, on a worker whose core is its own.
        links: What carries messages.
        cores: Workers of a machine that can compute at once, at full speed (its cores, by the threads of a worker); None where each
            has a device of its own.
        places: The machine of each worker; by default all are on one.
        jitter: How computing varies.
        begin: Seconds of computing that a message or collective costs whoever begins it.
        carry: Seconds of a core that each of its workers' own threads take to carry a message or collective, where workers have
            cores; they compute meanwhile, if no core is free more slowly.
        before: Seconds of computing of each worker that come before its program.

    Raises:
        ValueError: If workers wait for each other for ever; says who for what.

    Example:
        >>> class Instant:
        ...     def seconds(self, start, places):
        ...         return 0.5
        >>> matmul, swap = Kernel("aten.mm.default", ()), Start("swap", (0, 1), sends=((1, 8),))
        >>> first = Program(0, (matmul, swap, matmul))
        >>> second = Program(1, (Start("swap", (0, 1), receives=((0, 8),)), Wait(0), matmul))
        >>> step = simulate([first, second], lambda kernel: 1.0, Instant())
        >>> step.seconds, step.busy, step.waits[1], step.bytes_sent
        (2.5, (2.0, 1.0), (1.0, 0.5), (8, 0))
    """
    actions = [actions_of(program, seconds, begin, before) for program in programs]
    run = _Run(programs, actions, links, cores, places or [0] * len(programs), jitter or Jitter(), carry)
    run.to_end()
    return Simulated(
        max((worker.clock for worker in run.workers), default=0.0),
        tuple(worker.busy for worker in run.workers),
        tuple(tuple(worker.waited) for worker in run.workers),
        tuple(program.bytes_sent for program in programs),
        tuple(program.peak_bytes for program in programs),
        tuple(tuple(worker.spans) for worker in run.workers),
    )


def doing_of(mark: str) -> Doing:
    """Return what a worker does that computes after a mark, in the words of a timeline.

    Example:
        >>> doing_of("forward 3"), doing_of("B2@1"), doing_of("loss"), doing_of("exchange")
        ('forward', 'backward', 'forward', 'sum')
    """
    if mark.startswith("backward") or _is_action(mark, "B"):
        return "backward"
    of_forward = mark.startswith("forward") or mark in ("assign", "loss") or _is_action(mark, "F")
    return "forward" if of_forward else "sum"


def _is_action(mark: str, kind: str) -> bool:
    return mark.startswith(kind) and "@" in mark


class _Worker:
    """One worker on its way.

    Args:
        actions: Of its program.
        num_workers: Of all.

    Attributes:
        place: Of the action that comes next.
        clock: When it did what it did last.
        waiting: The `Start` that it waits for; None if it computes, or is done.
        arrived: When each meeting was there for it, of the `Start` it waits for: the last one decides.
        busy: Seconds in which it has computed.
        waited: For each worker, seconds.
    """

    def __init__(self, rank: int, actions: list[Action], num_workers: int) -> None:
        self.rank, self.actions = rank, actions
        self.place, self.clock, self.mark = 0, 0.0, ""
        self.waiting: int | None = None
        self.busy, self.waited = 0.0, [0.0] * num_workers
        self.spans: list[Span] = []

    def computed(self, now: float) -> None:
        """Note that it has computed until now."""
        self.busy += now - self.clock
        doing = doing_of(self.mark)
        self._note(doing, self.mark or doing, now)

    def waited_for(self, meeting: Meeting, last: int, complete: float, now: float) -> None:
        """Note that it has waited for a meeting: for the last one who came to it, and then for what was carried.

        Args:
            meeting: The one that was over last.
            last: Who was the last to come.
            complete: When.
            now: When the meeting was over.
        """
        stood = min(now, max(complete, self.clock))
        if stood > self.clock:
            self.waited[last] += stood - self.clock
            self._note("wait", f"for {last}", stood)
        if now > stood:
            self.waited[self.rank] += now - stood
            if meeting.start.kind != "swap":
                self._note("sum", meeting.start.kind, now)
            elif self.rank == meeting.comers[0]:
                self._note("send", f"to {meeting.comers[1]}", now)
            else:
                self._note("receive", f"from {meeting.comers[0]}", now)

    def _note(self, doing: Doing, name: str, now: float) -> None:
        if now > self.clock:
            before = self.spans[-1] if self.spans else None
            if before is not None and before[:2] == (doing, name) and before.end == self.clock:
                self.spans[-1] = before._replace(end=now)
            else:
                self.spans.append(Span(doing, name, self.clock, now))
        self.clock = now


class _Run:
    """The simulation.

    A meeting has come together when its last worker has come; then it goes on, and then it is over. What workers do in between is in
    `Sharing`, under their rank; what meetings do under their place and the rank of the worker whose threads carry it, or `WAY`, the time
    on its way.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        actions: Sequence[list[Action]],
        links: Network,
        cores: float | None,
        places: Sequence[int],
        jitter: Jitter,
        carry: Callable[[Start], float],
    ) -> None:
        count = len(programs)
        self.meetings = find_meetings(programs)
        self.workers = [_Worker(rank, mine, count) for rank, mine in enumerate(actions)]
        self.links, self.places, self.jitter = links, places, jitter
        self.cores, self.carry = cores, carry
        capacity: dict[Resource, float] = {("cable", place): 1.0 for place in places}
        capacity |= {("cores", place): cores or math.inf for place in places}
        self.sharing = Sharing(capacity)
        self.comers: list[list[int]] = [[] for _ in self.meetings.all]  # in the order in which they have come
        self.complete = [math.inf] * len(self.meetings.all)
        self.over = [math.inf] * len(self.meetings.all)
        self.carried: dict[
            int, tuple[float, tuple[Resource, ...]]
        ] = {}  # what is left of a meeting when its latency is over
        self.parts = [0] * len(self.meetings.all)  # of what a meeting does, how many are not over
        self.factors: dict[int, list[float]] = {}

    def to_end(self) -> None:
        """Let all workers do all that they do."""
        for worker in self.workers:
            self._go_on(worker)
        while (now := self.sharing.next_end()) < math.inf:
            for what in self.sharing.advance(now):
                if isinstance(what, int):
                    worker = self.workers[what]
                    worker.computed(now)
                    self._go_on(worker)
                else:
                    assert isinstance(what, tuple)
                    self._part_is_over(*what)
        stuck = [worker for worker in self.workers if worker.waiting is not None]
        if stuck:
            told = "; ".join(self._told(worker) for worker in stuck)
            raise ValueError(f"the programs never end, as workers wait for each other: {told}")

    def _go_on(self, worker: _Worker) -> None:
        """Let a worker do what takes it no time, up to where it computes, waits, or is done."""
        while worker.place < len(worker.actions):
            action = worker.actions[worker.place]
            if isinstance(action, Wait) and not self._is_over(worker.rank, action.start):
                worker.waiting = action.start
                return
            worker.place += 1
            if isinstance(action, Segment):
                cores = (("cores", self.places[worker.rank]),) if self.cores is not None else ()
                seconds = action.seconds * self._factor(worker.rank, action.number)
                self.sharing.begin(worker.rank, seconds, cores)
                return
            if isinstance(action, Mark):
                worker.mark = action.name
            elif not isinstance(action, Wait):
                for place in self.meetings.of[worker.rank][action.number]:
                    self._come(place, worker.rank)

    def _come(self, place: int, rank: int) -> None:
        """Note that a worker has come to a meeting; the last one lets it go on."""
        meeting, comers = self.meetings.all[place], self.comers[place]
        comers.append(rank)
        if len(comers) == len(meeting.comers):
            self.complete[place] = self.sharing.now
            seconds = self.links.seconds(meeting.start, self.places)
            machines = {self.places[comer] for comer in meeting.comers}
            if len(machines) > 1:  # its latency goes by first, which no cable shares
                latency = self.links.seconds(without_bytes(meeting.start), self.places)
                cables = tuple(("cable", machine) for machine in sorted(machines))
                self.carried[place] = seconds - latency, cables
                seconds = latency
            self.sharing.begin((place, WAY), seconds, ())
            self.parts[place] = 1
            if self.cores is not None and (taken := self.carry(meeting.start)):
                self.parts[place] += len(comers)
                for comer in comers:
                    self.sharing.begin((place, comer), taken, (("cores", self.places[comer]),))

    def _part_is_over(self, place: int, who: int) -> None:
        """Go on with a meeting of which a part is over: its latency, its way, or the work of a worker's threads."""
        if who == WAY and place in self.carried:
            self.sharing.begin((place, WAY), *self.carried.pop(place))
            return
        self.parts[place] -= 1
        if not self.parts[place]:
            self._end(place)

    def _end(self, place: int) -> None:
        """Let those go on that have waited for a meeting."""
        now = self.over[place] = self.sharing.now
        meeting = self.meetings.all[place]
        for rank in meeting.comers:
            worker = self.workers[rank]
            if worker.waiting is not None and self._is_over(rank, worker.waiting):
                worker.waiting = None
                worker.waited_for(meeting, self.comers[place][-1], self.complete[place], now)
                self._go_on(worker)

    def _is_over(self, rank: int, start: int) -> bool:
        return all(self.over[place] < math.inf for place in self.meetings.of[rank][start])

    def _factor(self, rank: int, segment: int) -> float:
        if segment not in self.factors:
            self.factors[segment] = self.jitter.factors(segment, len(self.workers)).tolist()
        return self.factors[segment][rank]

    def _told(self, worker: _Worker) -> str:
        assert worker.waiting is not None
        place = next(p for p in self.meetings.of[worker.rank][worker.waiting] if self.over[p] == math.inf)
        meeting = self.meetings.all[place]
        missing = [str(rank) for rank in meeting.comers if rank not in self.comers[place]]
        where = f" (in {worker.mark})" if worker.mark else ""
        return f"worker {worker.rank}{where} for the {meeting}, to which {' and '.join(missing)} did not come"
