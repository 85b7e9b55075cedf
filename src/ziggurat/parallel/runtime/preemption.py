"""Signals that ask a worker to stop soon: it finishes its step, writes a checkpoint, and ends.

Schedulers send SIGTERM some seconds before they take a machine away, and SIGUSR1 on request (Slurm's
``--signal=USR1@120``); a terminal that is closed sends SIGHUP, and a user who has seen enough presses Ctrl-C (SIGINT). Not every
worker of a run gets the signal, nor at the same instant, so the workers agree after each step.

Ctrl-C goes to every process of a terminal's foreground. The launcher alone answers: the first time it asks the workers to stop, by SIGTERM,
the second time it ends them at once. Workers that it has started ignore SIGINT, or they would hear each Ctrl-C twice.

    phase                      first signal, first Ctrl-C                    second Ctrl-C
    set-up                     ends at once                                  -
    steps, their evaluations   noted; the step is finished, a checkpoint     ends at once
    after the last step        ends at once: the weights are on the disk     -

Between two plans of a living run (`GoesOn`) signals are noted, too: the handlers stay, and the next block takes over what they have noted.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class GoesOn(Exception):  # noqa: N818 - reads as what happened
    """What raises it goes on elsewhere in this process: signals are noted until then."""


MANY = 3  # who presses Ctrl-C so often does not want to wait for anything to be cleaned up


class Preemption:
    """Takes note of the signals while its block runs, in the place of what they did before; what is ignored stays so.

    Args:
        announce: What is written on standard error when the first signal comes; empty says nothing.
        raises: Whether a signal that ends this process raises `KeyboardInterrupt` in it, also where the system would end it.

    Attributes:
        requested: Whether one has come.
        by_user: Whether the first was Ctrl-C.
    """

    def __init__(self, announce: str = "", raises: bool = False) -> None:
        self.requested = False
        self.by_user = False
        self._announce, self._raises = announce, raises
        self._presses = 0  # of Ctrl-C
        self._notes = True
        self._owner = 0
        self._before: dict[int, Any] = {}
        self._stays = False  # after its block

    def __enter__(self) -> Self:
        self._owner = os.getpid()
        if threading.current_thread() is threading.main_thread():  # Python allows handlers in no other
            heard = [
                number
                for number in (*SIGNALS, signal.SIGINT)
                if signal.getsignal(number) is not signal.SIG_IGN
            ]
            earlier = next(filter(None, map(_that_stays, heard)), None)
            self._before = {number: signal.signal(number, self._handle) for number in heard}
            if earlier is not None:  # after the exchange of handlers, so that none is missed
                self.requested, self.by_user = earlier.requested, earlier.by_user
                self._presses, self._before = earlier._presses, earlier._before
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, GoesOn):
            self._stays = True
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def end_at_once(self) -> None:
        """Let signals end this process from now on, as there is nothing left that a checkpoint would keep."""
        self._notes = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # it was forked a moment ago and has no handler of its own yet
            os._exit(128 + number)
        self._presses += number == signal.SIGINT
        if self._presses >= MANY:
            os._exit(128 + number)
        if not self._notes or self._presses > 1:
            self._end(number)
            return
        if not self.requested:
            self.requested, self.by_user = True, number == signal.SIGINT
            self._say()
        self._note(number)

    def _note(self, number: int) -> None:
        """Take note of a signal that is not the end yet."""

    def _end(self, number: int) -> None:
        """End what this process does: it dies where all signals are left to the system, as in workers; else it raises.

        Raises:
            KeyboardInterrupt: With the signal's number.
        """
        if self._raises or any(map(callable, self._before.values())):
            raise KeyboardInterrupt(number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _say(self) -> None:
        if self._announce:
            with contextlib.suppress(OSError):  # nobody reads it, as after the end of a terminal
                os.write(2, f"\nziggurat: {self._announce}\n".encode())  # a handler must not enter a stream


def _that_stays(number: int) -> Preemption | None:
    """Return what notes a signal after its block, in this process; None if nothing does."""
    owner = getattr(signal.getsignal(number), "__self__", None)
    is_there = isinstance(owner, Preemption) and owner._stays and owner._owner == os.getpid()
    return owner if is_there else None


def note_signals() -> None:
    """Let the signals be noted from now on, until the next `Preemption` of this process takes them over."""
    Preemption().__enter__()._stays = True


@contextmanager
def forwarded_signals() -> Iterator[Preemption]:
    """Send the signals on to the child processes of this one while a block runs: Ctrl-C as SIGTERM, and once only.

    Yields:
        Whether one has come.
    """

    class Forwarding(Preemption):
        def _note(self, number: int) -> None:
            for child in multiprocessing.active_children():
                if child.pid is not None:
                    os.kill(child.pid, signal.SIGTERM if number == signal.SIGINT else number)

    with Forwarding() as preemption:
        yield preemption


@contextmanager
def raised_signals() -> Iterator[Preemption]:
    """Let the signals raise `KeyboardInterrupt` while a block runs, with the number of the signal.

    Yields:
        Whether one has come.
    """
    with Preemption(raises=True) as preemption:
        preemption.end_at_once()
        yield preemption


def is_ctrl_c(error: KeyboardInterrupt) -> bool:
    """Whether a block was ended by Ctrl-C, and not by a scheduler's signal."""
    return not error.args or error.args[0] == signal.SIGINT
