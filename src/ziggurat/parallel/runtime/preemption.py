"""Signals that ask a worker to stop soon: it finishes its step, writes a checkpoint, and ends.

Schedulers send SIGTERM some seconds before they take a machine away, and SIGUSR1 on request (Slurm's
``--signal=USR1@120``). Not every worker of a run gets the signal, nor at the same instant, so the workers agree after
each step.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preemption:
    """Takes note of the signals while its block runs, in the place of what they did before.

    Attributes:
        requested: Whether one has come.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers in no other
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


@contextmanager
def forwarded_signals() -> Iterator[Preemption]:
    """Send the signals on to the child processes of this one while a block runs.

    Yields:
        Whether one has come.
    """
    parent = os.getpid()

    class Forwarding(Preemption):
        def _note(self, number: int, frame: FrameType | None) -> None:
            super()._note(number, frame)
            if (
                os.getpid() != parent
            ):  # a worker that was forked a moment ago and has no handler of its own yet
                os._exit(128 + number)
            for child in multiprocessing.active_children():
                if child.pid is not None:
                    os.kill(child.pid, number)

    with Forwarding() as preemption:
        yield preemption
