"""Things that several loader processes make ahead of time, in the order in which they were asked for.

Two are under way for each process, finished or not, so that memory is bounded. Each goes to the process that owes least::

    asked     0  1  2  3  4          process A: 0 . 2 . 4
    returned  0  1  2                process B: 1 ..... 3        3 may be ready before 2; it waits

A process that dies is replaced, and what it owed is asked for again: what is made is a pure function of what is asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from ziggurat.data.loading.process import LoaderDied, LoaderProcess, wait_for

Asked = TypeVar("Asked")

AHEAD = 2  # things that are under way, or wait to be taken, for each process
MAX_DEATHS = 3  # of loader processes over one thing


class DiedAgainAndAgain(Exception):  # noqa: N818 - reads as what happened
    """Loader processes in turn ended over one thing.

    Attributes:
        deaths: How many.
        asked: What was asked for.
    """

    def __init__(self, deaths: int, asked: object, last: LoaderDied) -> None:
        super().__init__(str(last))
        self.deaths, self.asked = deaths, asked


class OrderedLoading(Generic[Asked]):
    """What is asked for, one after the other, made by several processes.

    Args:
        make: From what is asked for to what is returned; runs in the processes.
        schedule: What will be asked for.
        num_processes: At least 1.
        notice: Is told of processes that died and were replaced.
    """

    def __init__(
        self,
        make: Callable[[Asked], object],
        schedule: Iterator[Asked],
        num_processes: int,
        notice: Callable[[str], None],
    ) -> None:
        self._make = make
        self._schedule = enumerate(schedule)
        self._notice = notice
        self._ready: dict[int, Any] = {}
        self._deaths: Counter[int] = Counter()
        self._taken = 0  # things that were returned
        self._asked = 0
        self._processes: list[LoaderProcess[Asked]] = []
        for _ in range(num_processes):
            self._processes.append(self._start())

    def next(self) -> Any:
        """Return the next thing.

        Raises:
            DiedAgainAndAgain: If no process survives it.
        """
        self._ask()
        while self._taken not in self._ready:
            for process in wait_for(self._processes):
                try:
                    number, thing = process.receive()
                except LoaderDied as death:
                    self._replace(process, death)
                else:
                    self._deaths.pop(number, None)
                    if number >= self._taken:  # else nobody wants it any more
                        self._ready[number] = thing
        thing = self._ready.pop(self._taken)
        if isinstance(thing, DiedAgainAndAgain):
            raise thing
        self._taken += 1
        return thing

    def ask_instead(self, schedule: Iterator[Asked]) -> None:
        """Throw away what was asked for and not taken, and ask for other things from now on."""
        self._schedule = enumerate(schedule, start=self._asked)
        self._taken = self._asked
        self._ready.clear()

    def close(self) -> None:
        """End the processes at once: one may wait for something that a dead one held."""
        for process in self._processes:
            process.close()
        self._processes.clear()
        self._ready.clear()

    def _start(self) -> LoaderProcess[Asked]:
        others = [channel for other in self._processes for channel in other.channels]
        return LoaderProcess(self._make, others)

    def _ask(self) -> None:
        """Let as many things be under way as may be."""
        while self._asked - self._taken < AHEAD * len(self._processes):
            number, asked = next(self._schedule, (-1, None))
            if asked is None:
                return
            min(self._processes, key=lambda process: len(process.asked)).ask(number, asked)
            self._asked += 1

    def _replace(self, process: LoaderProcess[Asked], death: LoaderDied) -> None:
        """Let a new process make what a dead one owes, but for what has killed too many."""
        owed = [(number, asked) for number, asked in process.asked if number >= self._taken]
        place = self._processes.index(process)
        del self._processes[place]
        process.close()
        self._processes.insert(place, self._start())
        number, asked = owed[0] if owed else (-1, None)  # which it was at work on
        self._deaths[number] += 1
        if owed and self._deaths[number] > MAX_DEATHS:
            self._ready[number] = DiedAgainAndAgain(self._deaths[number], asked, death)
            del owed[0]
        else:
            self._notice(f"a loader process ended ({death}) and was replaced; its samples are loaded again")
        for number, again in owed:
            self._processes[place].ask(number, again)
