"""Shadow workers: real processes, groups and messages, in which computing is sleep.

    program    Kernel Kernel   Start(swap)    Kernel   Wait
    shadow     (their seconds) sleep, send    (...)    sleep, wait until it is there

A program (see `record`) says in which order a worker computes, sends and waits. A shadow does the same, with one process for each worker:
sleep takes no core, so that 64 of them run on two. What comes out is measured by a clock, in real processes that really wait for each
other; it is what a simulation is held against.

**Not real:** a message carries sixteen bytes, the time at which it was begun and its group, whatever its size; what its bytes take is slept
by who waits for it, from that time on. A collective is one message to each other member, whatever its kind, and ends after the last has
begun it. Calls of Python between kernels take no time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ziggurat.parallel.collectives.requests import Request
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.planning.processes import on_workers
from ziggurat.planning.program import Kernel, Program, Start, Wait

Action = float | Start | Wait  # a number is seconds of computing


@dataclass(frozen=True)
class Shadowed:
    """What shadow workers have measured.

    Attributes:
        steps: Seconds of each step, from the instant at which all begin to that at which the last has ended.
    """

    steps: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """The median of the steps."""
        return statistics.median(self.steps)


def shadow(
    programs: Sequence[Program],
    seconds: Callable[[Kernel], float],
    message_seconds: Callable[[Start], float] = lambda start: 0.0,
    steps: int = 3,
    stretch: float = 1.0,
) -> Shadowed:
    """Take steps with shadow workers, and measure them.

    Args:
        programs: Of all workers, in order of rank.
        seconds: Of a kernel.
        message_seconds: From the start of a message or collective, by the last of who take part, until it is there.
        steps: How many are measured; one more is taken before.
        stretch: What all seconds are multiplied by, and the results divided: the larger, the less do the machine's own delays weigh.

    Returns:
        Seconds as they would be without the stretch.
    """
    actions = [actions_of(program, seconds) for program in programs]
    found = on_workers(_shadow, len(programs), (actions, message_seconds, steps, stretch))
    begins, ends = zip(*found, strict=True)
    took = [
        max(end) - max(begin)
        for begin, end in zip(zip(*begins, strict=True), zip(*ends, strict=True), strict=True)
    ]
    return Shadowed(tuple(one / stretch for one in took))


def actions_of(program: Program, seconds: Callable[[Kernel], float]) -> list[Action]:
    """Return what a worker does, with the seconds of kernels that follow each other as one.

    Example:
        >>> relu = Kernel("aten.relu.default", ())
        >>> start = Start("barrier", (0, 1))
        >>> actions_of(Program(0, (relu, relu, start, relu, Wait(0))), lambda kernel: 0.5) == [1.0, start, 0.5, Wait(0)]
        True
    """
    found: list[Action] = []
    owed = 0.0
    for event in program.events:
        if isinstance(event, Kernel):
            owed += seconds(event)
        elif isinstance(event, (Start, Wait)):
            found += [owed, event] if owed else [event]
            owed = 0.0
    return [*found, owed] if owed else found


class _Inbox:
    """What another worker has sent, by group: of messages of several groups the order may differ at both ends."""

    def __init__(self) -> None:
        self.posted: list[tuple[Request, Tensor]] = []
        self.arrived: dict[int, list[float]] = {}

    def take(self, group: int) -> float:
        """Return when the next message of a group was begun, once it is there."""
        while not self.arrived.get(group):
            request, told = self.posted.pop(0)
            request.wait()
            begun, number = told.tolist()
            self.arrived.setdefault(int(number), []).append(begun)
        return self.arrived[group].pop(0)


class _Shadow:
    """One worker.

    Args:
        workers: All of them.
        groups: Numbers of the groups, the same on every worker.
    """

    def __init__(self, workers: Workers, groups: dict[tuple[int, ...], int]) -> None:
        self.workers, self.groups = workers, groups
        self.inboxes = [_Inbox() for _ in range(workers.size)]

    def begin(self, start: Start) -> Request:
        """Begin a message or collective; returns what is sent."""
        told = torch.tensor([time.monotonic(), self.groups[start.group]], dtype=torch.float64)
        for source in self.sources(start):
            room = torch.zeros(2, dtype=torch.float64)
            self.inboxes[source].posted.append((self.workers.start_receive(room, source), room))
        others = [rank for rank in start.group if rank != self.workers.rank]
        targets = [rank for rank, _ in start.sends] if start.kind == "swap" else others
        return self.workers.start_swap([(target, told) for target in targets], [])

    def sources(self, start: Start) -> list[int]:
        """Return the workers that a message or collective waits for."""
        if start.kind == "swap":
            return [rank for rank, _ in start.receives]
        return [rank for rank in start.group if rank != self.workers.rank]

    def end(self, start: Start, begun: float, sent: Request, seconds: float) -> None:
        """Return so many seconds after the last worker has begun, or sent what this one receives."""
        sent.wait()
        times = [self.inboxes[source].take(self.groups[start.group]) for source in self.sources(start)]
        if times:
            last = max(times) if start.kind == "swap" else max(begun, *times)
            _sleep_until(last + seconds)

    def step(
        self, actions: Sequence[Action], message_seconds: Callable[[Start], float], stretch: float
    ) -> None:
        """Take one step."""
        begun: list[tuple[Start, float, Request]] = []
        for action in actions:
            if isinstance(action, Start):
                begun.append((action, time.monotonic(), self.begin(action)))
            elif isinstance(action, Wait):
                start, instant, sent = begun[action.start]
                self.end(start, instant, sent, stretch * message_seconds(start))
            else:
                time.sleep(stretch * action)


HEADSTART = 0.02  # seconds, in which all workers learn when a step begins


def _begin_together(workers: Workers) -> float:
    """Return, on all workers, at one instant: which one."""
    instant = torch.tensor([time.monotonic() + HEADSTART], dtype=torch.float64)
    begin = float(workers.add_up(instant, "max"))
    _sleep_until(begin)
    return begin


def _sleep_until(instant: float) -> None:
    left = instant - time.monotonic()
    if left > 0:
        time.sleep(left)


def _shadow(
    workers: Workers,
    actions: Sequence[Sequence[Action]],
    message_seconds: Callable[[Start], float],
    steps: int,
    stretch: float,
) -> tuple[list[float], list[float]]:
    """Be a shadow; returns when each step began and ended, on the machine's clock."""
    every = sorted({one.group for some in actions for one in some if isinstance(one, Start)})
    one = _Shadow(workers, {group: number for number, group in enumerate(every)})
    begins, ends = [], []
    for _ in range(steps + 1):
        begins.append(_begin_together(workers))
        one.step(actions[workers.rank], message_seconds, stretch)
        ends.append(time.monotonic())
    return begins[1:], ends[1:]
