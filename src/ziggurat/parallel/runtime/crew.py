"""Another number of workers in a living run: what its workers and their launcher say to each other.

    worker 0                                     launcher                            worker 2, new
    Wanted(3) ─────────────────────────────────> starts it ────────────────────────> imports, sets up
    steps go on                                           <───────────────── Ready() waits
    <────────────────────────────── Answer(3, "")
    state to memory: Kept() ───────────────────> what survivors hand over from now on is news
    all raise OtherWorkers, and leave their groups
    Moved(3, 1) ───────────────────────────────> it belongs to the run ── Go(3, 1) ─>
    ──────────── all meet in world 1 at a store of its own; who is too many has ended ────────────

A worker that cannot come is said, and the run goes on as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from ziggurat.parallel.runtime.heartbeat import phase, waiting
from ziggurat.parallel.runtime.preemption import note_signals


class Wanted(NamedTuple):
    """So many workers are to be there soon; as many as there are calls off what was wanted before."""

    num_workers: int


class Ready(NamedTuple):
    """A new worker is set up, and waits for `Go`."""


class Answer(NamedTuple):
    """So many workers can begin; or not, and why."""

    num_workers: int
    fault: str


class Kept(NamedTuple):
    """The workers have put the state of this instant into memory."""


class Moved(NamedTuple):
    """The run has so many workers from now on, which meet in a world of this number."""

    num_workers: int
    world: int


class Go(NamedTuple):
    """A new worker belongs to a run, in a world of this number and of so many workers."""

    num_workers: int
    world: int


class OtherWorkers(Exception):  # noqa: N818 - reads as what happened
    """A function goes on with another number of workers; all workers raise it at the same place, when no group is used any more.

    Attributes:
        num_workers: How many there are then.
        args: Of the function then, beside the workers.
    """

    def __init__(self, num_workers: int, args: tuple[Any, ...]) -> None:
        super().__init__(f"{num_workers} workers")
        self.num_workers, self.args = num_workers, args


class Line:
    """What a worker says to its launcher, which can start others.

    Args:
        pipe: To the launcher; None where this process is the launcher, too: it starts all workers when it has left training.
        fault: Why it cannot.
    """

    def __init__(self, pipe: Connection | None, fault: str = "") -> None:
        self.pipe, self.fault = pipe, fault
        self.wanted: int | None = None

    def ready(self, num_workers: int) -> str | None:
        """Ask for so many workers; return nothing when they are set up, what is in the way of that, or None as long as they come."""
        if self.pipe is None:
            return self.fault
        if self.wanted != num_workers:
            self.wanted = num_workers
            self.pipe.send(Wanted(num_workers))
        while self.pipe.poll():
            answer = self.pipe.recv()
            if answer.num_workers == self.wanted:
                self.wanted = None
                return str(answer.fault)
        return None

    def call_off(self, num_workers: int) -> None:
        """Want no more workers than there are, where more have been asked for."""
        if self.pipe is not None and self.wanted is not None:
            self.wanted = None
            self.pipe.send(Wanted(num_workers))

    def kept(self) -> None:
        """Say that the state is in memory."""
        if self.pipe is not None:
            self.pipe.send(Kept())

    def moved(self, num_workers: int, world: int) -> None:
        """Say that the run has another number of workers."""
        self.wanted = None
        if self.pipe is not None:
            self.pipe.send(Moved(num_workers, world))

    def wait_for_go(self) -> Go:
        """Return what world a new worker belongs to, as soon as it does."""
        assert self.pipe is not None
        note_signals()  # the others do, too, between two plans
        phase("coming")
        self.pipe.send(Ready())
        with waiting():
            go = self.pipe.recv()
        assert isinstance(go, Go)
        return go


@dataclass(frozen=True)
class Growth:
    """How a launcher starts more workers beside those that it has.

    Attributes:
        arguments: From the number of workers to the arguments of a new one's process, beside its pipe and its rank.
        survived: What the newest state is that workers have put into memory; None if nothing.
    """

    arguments: Callable[[int], tuple[Any, ...]]
    survived: Callable[[], int | None]
