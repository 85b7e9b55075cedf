"""One attempt of local workers: they are started, watched, and either all of them finish or their end is explained.

    launcher ── starts ──> worker 0 ... worker W-1      one pipe each: its result, or its last word
        │<── pipes, ends of processes, records ───┘
        ├── all have ended well ─────────> the first worker's result
        ├── one reports an error ────────> UserError or WorkerFailed: the earliest cause
        └── one dies, or hangs ──────────> WorkerLost, as soon as the others have handed over what they know

The launcher waits for whatever happens first, without polling for it.
"""

from __future__ import annotations

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
from ziggurat.parallel.runtime.failures import Interrupted, WorkerFailed, WorkerLost
from ziggurat.parallel.runtime.guard import REMEDY, UNGUARDED
from ziggurat.parallel.runtime.hangs import HangWatch, where
from ziggurat.parallel.runtime.heartbeat import read_record, read_records
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
    """

    result: Any = None
    faults: list[str] | None = None
    preempted: str | None = None
    traceback: str = ""
    is_consequence: bool = False


class Attempt:
    """The workers of one attempt.

    Args:
        folder: A temporary folder of this attempt.
        records: The file of the workers' records.
        watch: Finds those that hang.
        handed_over: Whether a survivor has handed over its state; None if survivors have nothing to say.
        preemption: Whether a scheduler has asked the workers to stop.
    """

    def __init__(
        self,
        folder: Path,
        records: Path,
        watch: HangWatch,
        handed_over: Callable[[], bool] | None,
        preemption: Preemption,
    ) -> None:
        self.folder = folder
        self.records = records
        self.watch = watch
        self.handed_over = handed_over
        self.preemption = preemption
        self.processes: dict[int, BaseProcess] = {}
        self.pipes: dict[int, Connection] = {}
        self.words: dict[int, LastWord] = {}  # in the order of their coming
        self.lost: dict[int, str] = {}
        self.failed_at: float | None = None

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
        try:
            with _interrupts():
                for rank in range(num_workers):
                    receive, send = context.Pipe(duplex=False)
                    self.pipes[rank] = receive
                    # typeshed gives the base class of contexts no Process
                    process = context.Process(target=function, args=(send, rank, *args))  # type: ignore[attr-defined]
                    try:
                        with without_ctrl_c():
                            process.start()
                    except OSError as error:
                        raise WorkerLost(f"worker {rank} cannot be started: {error}") from None
                    finally:
                        send.close()
                    self.processes[rank] = process
                if self.preemption.requested:  # those that were started later have not got the signal
                    raise self._unanswered()
                self._wait()
        except KeyboardInterrupt:
            raise Interrupted from None
        finally:
            self._end()
        return self._verdict()

    def _wait(self) -> None:
        """Return when all workers have ended, or nothing better is to be expected of those that have not."""
        while self._alive() and not self._is_over():
            things: list[Connection | int] = [self.processes[rank].sentinel for rank in self._alive()]
            things += [
                pipe for rank, pipe in self.pipes.items() if rank not in self.words and not pipe.closed
            ]
            wait(things, POLL_SECONDS if self.failed_at is not None else self.watch.interval)
            self._listen()
            for rank, activity in self.watch.find(self._pids()).items():
                if rank not in self.lost:
                    process = self.processes[rank]
                    assert process.pid is not None
                    self._note_loss(rank, self.watch.describe(rank, process.pid, activity))
                    process.kill()
        self._listen()

    def _listen(self) -> None:
        """Take in what workers have sent, and who has ended."""
        ended = {
            rank: process.exitcode for rank, process in self.processes.items()
        }  # before the pipes are read
        for rank, pipe in self.pipes.items():
            if not pipe.closed and pipe.poll():
                try:
                    word = pipe.recv()
                except (EOFError, OSError):  # it has died, perhaps in the middle of a word
                    pipe.close()
                    continue
                self.words[rank] = word
                if word.traceback:
                    self.failed_at = self.failed_at or time.monotonic()
        for rank, code in ended.items():
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
        if self.handed_over is None or self.handed_over():
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
            step = max(read_record(self.records, rank).step for rank in self.processes)
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
        for process in self.processes.values():
            if process.exitcode is None:
                process.kill()
        for process in self.processes.values():
            process.join()
        for pipe in self.pipes.values():
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
