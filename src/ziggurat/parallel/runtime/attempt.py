"""One attempt of local workers: they are started, watched, and either all of them finish or their end is explained.

    launcher ── starts ──> worker 0 ... worker W-1      one pipe each: its result, or its last word
        │<── pipes, ends of processes, records ───┘
        ├── all have ended well ─────────> the first worker's result
        ├── one reports an error ────────> UserError or WorkerFailed: the earliest cause
        └── one dies, or hangs ──────────> WorkerLost, as soon as the others have handed over what they know

The launcher waits for whatever happens first, without polling for it. While a run goes on its number of workers may change (`crew`).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from ziggurat.errors import Preempted, UserError
from ziggurat.parallel.runtime.crew import Answer, Go, Growth, Kept, Moved, Ready, Wanted
from ziggurat.parallel.runtime.failures import Interrupted, WorkerFailed, WorkerLost
from ziggurat.parallel.runtime.guard import REMEDY, UNGUARDED
from ziggurat.parallel.runtime.hangs import HangWatch, where
from ziggurat.parallel.runtime.heartbeat import make_records, read_record, read_records
from ziggurat.parallel.runtime.losses import tell_loss
from ziggurat.parallel.runtime.preemption import Preemption
from ziggurat.system.forking import fork_context, without_ctrl_c

LAST_WORD_SECONDS = 0.5  # after a first error others may follow, or deaths, that explain it
STUCK_SECONDS = 5.0  # a survivor that waits for so long has not noticed that a worker has died
POLL_SECONDS = 0.05  # once a worker has died, survivors are looked at so often
INTERRUPTS = (signal.SIGQUIT,)
UNANSWERED = "stopped by a signal before the first step, or outside of training; nothing was written"


@dataclass(frozen=True)
class LastWord:
    """What a worker reports before it ends.

    Attributes:
        result: Of its function; None if it failed.
        faults: The user's, if that is what the error is.
        preempted: How it has been stopped by a signal, if that is what the error is.
        traceback: Of the error; empty if there is none.
        is_consequence: Whether the error only says that another worker did not answer.
        has_left: Whether the run goes on without it, with fewer workers.
    """

    result: Any = None
    faults: list[str] | None = None
    preempted: str | None = None
    traceback: str = ""
    is_consequence: bool = False
    has_left: bool = False


@dataclass
class Coming:
    """A worker that is started while the others go on.

    Attributes:
        is_ready: Whether it waits for them.
    """

    process: BaseProcess
    pipe: Connection
    is_ready: bool = False


class Attempt:
    """The workers of one attempt.

    Args:
        folder: A temporary folder of this attempt.
        records: The file of the workers' records.
        watch: Finds those that hang.
        growth: What survivors hand over, and how others are started beside them; None if survivors have nothing to say.
        preemption: Whether a scheduler has asked the workers to stop.
    """

    def __init__(
        self,
        folder: Path,
        records: Path,
        watch: HangWatch,
        growth: Growth | None,
        preemption: Preemption,
    ) -> None:
        self.folder = folder
        self.records = records
        self.watch = watch
        self.growth = growth
        self.known = growth.survived() if growth is not None else None  # what survivors hand over is another
        self.preemption = preemption
        self.num_workers = 0
        self.processes: dict[int, BaseProcess] = {}
        self.pipes: dict[int, Connection] = {}
        self.words: dict[int, LastWord] = {}  # in the order of their coming
        self.lost: dict[int, str] = {}
        self.failed_at: float | None = None
        self.coming: dict[int, Coming] = {}
        self.wanted = 0  # workers; as many as there are if no others come
        self.leaving: list[BaseProcess] = []

    def run(self, method: str, num_workers: int, function: Callable[..., None], args: tuple[Any, ...]) -> Any:
        """Start the workers and return the first one's result; no process is left, whatever happens.

        Args:
            method: ``fork`` or ``spawn``.
            num_workers: How many.
            function: Called as ``function(pipe, rank, *args)`` in each; it sends its `LastWord`.
            args: Its further arguments.

        Raises:
            UserError: A worker found the user's input wrong.
            WorkerFailed: A worker failed otherwise.
            WorkerLost: A worker died or hung, or could not be started.
            Preempted: A scheduler, a closed terminal or Ctrl-C has asked for an end.
            Interrupted: By Ctrl-C before workers take note of it, or for the second time.
        """
        context = fork_context() if method == "fork" else multiprocessing.get_context(method)
        if method != "fork":
            resource_tracker.ensure_running()  # else the first start does it, and undoes `without_ctrl_c`
        self.context, self.function = context, function
        self.num_workers = self.wanted = num_workers
        try:
            with _interrupts():
                for rank in range(num_workers):
                    self.processes[rank], self.pipes[rank] = self._start(rank, args)
                if self.preemption.requested:  # those that were started later have not got the signal
                    raise self._unanswered()
                self._wait()
        except KeyboardInterrupt:
            raise Interrupted from None
        finally:
            self._end()
        return self._verdict()

    def _start(self, rank: int, args: tuple[Any, ...]) -> tuple[BaseProcess, Connection]:
        """Start a worker, and return it with the pipe to it.

        Raises:
            WorkerLost: If the system has no process for it.
        """
        ours, its = self.context.Pipe()
        # typeshed gives the base class of contexts no Process
        process = self.context.Process(target=self.function, args=(its, rank, *args))  # type: ignore[attr-defined]
        try:
            with without_ctrl_c():
                process.start()
        except OSError as error:
            ours.close()
            raise WorkerLost(f"worker {rank} cannot be started: {error}") from None
        finally:
            its.close()
        return process, ours

    def _wait(self) -> None:
        """Return when all workers have ended, or nothing better is to be expected of those that have not."""
        while self._alive() and not self._is_over():
            things: list[Connection | int] = [self.processes[rank].sentinel for rank in self._alive()]
            things += [
                pipe for rank, pipe in self.pipes.items() if rank not in self.words and not pipe.closed
            ]
            for one in self.coming.values():
                things += [one.process.sentinel, *([] if one.pipe.closed else [one.pipe])]
            wait(things, POLL_SECONDS if self.failed_at is not None else self.watch.interval)
            self._listen()
            for rank, activity in self.watch.find(self._pids()).items():
                if rank not in self.lost:
                    process = self.processes[rank]
                    assert process.pid is not None
                    self._note_loss(rank, self.watch.describe(rank, process.pid, activity))
                    process.kill()
            self._look_at_coming()
        self._listen()

    def _listen(self) -> None:
        """Take in what workers have sent, and who has ended."""
        ended = {
            rank: (process, process.exitcode) for rank, process in self.processes.items()
        }  # before the pipes are read
        for rank, pipe in list(self.pipes.items()):
            for word in _words(pipe):
                self._take(rank, word)
        self.leaving = [process for process in self.leaving if process.exitcode is None]
        for rank, (process, code) in ended.items():
            if self.processes.get(rank) is not process:  # it has left
                continue
            if code is not None and rank not in self.words and rank not in self.lost:
                place = where(read_records(self.records, rank))
                if code == UNGUARDED:
                    self.words[rank] = LastWord(faults=[REMEDY])
                    self.failed_at = self.failed_at or time.monotonic()
                    continue
                if code < 0:
                    self._note_loss(rank, f"worker {rank} was killed by {signal.Signals(-code).name}{place}")
                else:
                    self._note_loss(
                        rank, f"worker {rank} ended without a message, with exit status {code}{place}"
                    )

    def _take(self, rank: int, word: Any) -> None:
        """Take in one thing that a worker has sent."""
        if isinstance(word, Wanted):
            self._want(word.num_workers)
        elif isinstance(word, Kept):
            self.known = self.growth.survived() if self.growth is not None else None
        elif isinstance(word, Moved):
            self._move(word)
        elif isinstance(word, LastWord) and word.has_left:
            self._let_go(rank)
        elif isinstance(word, LastWord):
            self.words[rank] = word
            if word.traceback:
                self.failed_at = self.failed_at or time.monotonic()

    def _want(self, num_workers: int) -> None:
        """Start the workers that are missing, while the others go on; end those that are not wanted any more."""
        self.wanted = num_workers
        self._turn_away(num_workers)
        if self.preemption.requested:
            self._refuse("a signal has asked for the end")
            return
        try:
            for rank in range(self.num_workers, num_workers):
                if rank not in self.coming:
                    self.coming[rank] = self._start_new(rank)
        except WorkerLost as error:
            self._refuse(str(error))

    def _start_new(self, rank: int) -> Coming:
        assert self.growth is not None  # else no worker has a line
        make_records(self.records, rank + 1)
        return Coming(*self._start(rank, self.growth.arguments(self.wanted)))

    def _look_at_coming(self) -> None:
        """Answer the first worker as soon as all that it wants are ready, or one of them cannot come."""
        if not self.coming:
            return
        for rank, one in self.coming.items():
            ended = one.process.exitcode  # before its pipe is read
            for word in _words(one.pipe):
                one.is_ready = one.is_ready or isinstance(word, Ready)
                if isinstance(word, LastWord):
                    why = "; ".join(word.faults or []) or word.preempted or word.traceback
                    self._refuse(f"worker {rank} cannot begin: {why}")
                    return
            if ended is not None:
                self._refuse(f"worker {rank} ended before it had begun, with exit status {ended}")
                return
        early = {
            rank: one.process.pid for rank, one in self.coming.items() if one.process.pid and not one.is_ready
        }
        for rank, activity in self.watch.find(early).items():
            self._refuse(self.watch.describe(rank, early[rank], activity))
            return
        if not early and self.wanted == self.num_workers + len(self.coming):
            self._answer("")

    def _refuse(self, fault: str) -> None:
        self._turn_away(self.num_workers)
        self._answer(fault)

    def _answer(self, fault: str) -> None:
        with contextlib.suppress(OSError):  # it has died, which is noticed elsewhere
            self.pipes[0].send(Answer(self.wanted, fault))
        self.wanted = self.num_workers

    def _turn_away(self, num_workers: int) -> None:
        """End the workers that are coming and have no place among so many."""
        for rank in [rank for rank in self.coming if rank >= num_workers]:
            one = self.coming.pop(rank)
            one.process.kill()
            one.pipe.close()
            self.leaving.append(one.process)

    def _move(self, moved: Moved) -> None:
        """Let the workers be those of the run that have come for it, and not be those that have left it."""
        self.wanted = moved.num_workers
        for rank in range(moved.num_workers, self.num_workers):
            self._let_go(rank)
        for rank in range(self.num_workers, moved.num_workers):
            try:
                one = self.coming.pop(rank, None) or self._start_new(rank)
            except WorkerLost as error:
                self._note_loss(rank, str(error))
                continue
            self.processes[rank], self.pipes[rank] = one.process, one.pipe
            with contextlib.suppress(OSError):  # as above
                one.pipe.send(Go(*moved))
        self.num_workers = moved.num_workers
        self._turn_away(moved.num_workers)

    def _let_go(self, rank: int) -> None:
        """Expect nothing more of a worker without which the run goes on."""
        process, pipe = self.processes.pop(rank, None), self.pipes.pop(rank, None)
        self.words.pop(rank, None)
        if process is not None and pipe is not None:
            self.leaving.append(process)
            pipe.close()

    def _note_loss(self, rank: int, message: str) -> None:
        self.lost[rank] = message
        tell_loss(self.folder, message)
        self.failed_at = self.failed_at or time.monotonic()

    def _is_over(self) -> bool:
        """Whether those who are left have nothing to say that matters."""
        if self.failed_at is None:
            return False
        if any(word.faults is not None for word in self.words.values()):
            return True
        since = time.monotonic() - self.failed_at
        if not self.lost:
            return since > LAST_WORD_SECONDS
        if self.growth is None or self.growth.survived() != self.known:
            return True
        return all(self._has_nothing_to_say(rank, since) for rank in self._alive())

    def _has_nothing_to_say(self, rank: int, since: float) -> bool:
        """Whether a survivor holds no state yet, or has not noticed the loss of another for too long."""
        activity = read_record(self.records, rank)
        silent = time.monotonic() - activity.since
        stuck = activity.waiting and min(since, silent) > STUCK_SECONDS
        return activity.section == "set-up" or stuck

    def _verdict(self) -> Any:
        """Return the result, or raise what ended the attempt: a user's fault, a signal, a death, else the earliest error.

        A worker that is killed has no last word; the errors of those that were talking to it are consequences.
        """
        for word in self.words.values():
            if word.faults is not None:
                raise UserError(word.faults)
        for word in self.words.values():
            if word.preempted is not None:
                raise Preempted(word.preempted, self.preemption.by_user)
        if self.lost and self.preemption.requested:  # they were not ready to answer, so the signal ended them
            raise self._unanswered()
        if self.lost:
            steps = [read_record(self.records, rank).step for rank in self.processes]
            step = max(
                *steps, -1, -1 if self.known is None else self.known
            )  # the last one: of a change of workers
            raise WorkerLost("; ".join(self.lost.values()), step)
        failed = [(rank, word) for rank, word in self.words.items() if word.traceback]
        if failed:
            rank, word = min(failed, key=lambda one: one[1].is_consequence)  # the earliest that is none
            raise WorkerFailed(f"worker {rank} failed:\n{word.traceback}")
        return self.words[0].result

    def _unanswered(self) -> Preempted | Interrupted:
        """Return what a signal has done to workers that take no note of it."""
        return Interrupted() if self.preemption.by_user else Preempted(UNANSWERED)

    def _alive(self) -> list[int]:
        return [rank for rank, process in self.processes.items() if process.exitcode is None]

    def _pids(self) -> dict[int, int]:
        return {rank: pid for rank in self._alive() if (pid := self.processes[rank].pid) is not None}

    def _end(self) -> None:
        sys.stderr.flush()
        self._turn_away(0)
        processes = [*self.processes.values(), *self.leaving]
        for process in processes:
            if process.exitcode is None:
                process.kill()
        for process in processes:
            process.join()
        for pipe in self.pipes.values():
            pipe.close()


def _words(pipe: Connection) -> Iterator[Any]:
    """Yield what lies in a pipe, and close it where nothing more will come."""
    while not pipe.closed and pipe.poll():
        try:
            yield pipe.recv()
        except (EOFError, OSError):  # its worker has died, perhaps in the middle of a word
            pipe.close()


@contextmanager
def _interrupts() -> Iterator[None]:
    """Let the signals that ask for an end at once raise KeyboardInterrupt while a block runs; one that is ignored stays so."""
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers in no other
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    heard = [number for number in INTERRUPTS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
