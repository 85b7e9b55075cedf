"""How far something is that takes longer than two seconds: a line that changes on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import IO, Self

BEGIN_SECONDS = 2.0  # what takes no longer says nothing
TERMINAL_SECONDS = 0.2  # between two changes of the line
LOG_SECONDS = 8.0  # between two lines: nothing is silent for ten


def time_left(seconds: float, done: int, total: int) -> str:
    """Return how long the rest will take if it goes on as before, as the end of a line; nothing if that is not known, or over.

    Example:
        >>> time_left(30.0, 10, 70)
        '  3 min left'
    """
    if not 0 < done < total:
        return ""
    left = seconds / done * (total - done)
    if left < 90:
        return f"  {left:.0f} s left"
    return f"  {left / 60:.0f} min left" if left < 90 * 60 else f"  {left / 3600:.1f} h left"


class Line:
    """One line on standard error: it changes on a terminal, and stands anew now and then in a log.

    Args:
        active: Whether this worker speaks.
        stream: Where it is said; None takes standard error.
        clock: Says the time in seconds.
    """

    def __init__(
        self,
        active: bool = True,
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.active = active
        self.stream = stream or sys.stderr
        self.is_terminal = self.stream.isatty()
        self.clock, self.begin = clock, clock()
        self.next = self.begin + BEGIN_SECONDS
        self.has_line = False
        self.amount = (0.0, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Leave the line on a terminal: what comes next begins at the left."""
        if self.has_line:
            self._write("\r\x1b[K")
            self.has_line = False

    def is_time(self, now: float) -> bool:
        """Whether something is to be said at a time."""
        return self.active and now >= self.next

    def say(self, line: str, now: float) -> None:
        """Say a line, and nothing for some time."""
        self.next = now + (TERMINAL_SECONDS if self.is_terminal else LOG_SECONDS)
        self._write(f"\r{line}\x1b[K" if self.is_terminal else f"{line}\n")
        self.has_line = self.is_terminal

    def _rate(self, now: float, share: float) -> str:
        amount, unit = self.amount
        return f"  {share * amount / (now - self.begin):.3g} {unit}/s" if amount and share else ""

    def _write(self, text: str) -> None:
        with suppress(OSError):  # nobody reads it
            self.stream.write(text)
            self.stream.flush()


class Meter(Line):
    """Says how far something is, on standard error.

    Args:
        what: What is done, such as ``evaluation``.
        unit: What is counted, such as ``images``.
        active: Whether this worker speaks.
        stream: Where it is said; None takes standard error.
        clock: Says the time in seconds.

    Attributes:
        amount: How much all of it is, and of what, such as ``(120.0, "megapixels")``: the rate is said then.
    """

    def __init__(
        self,
        what: str,
        unit: str,
        active: bool = True,
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(active, stream, clock)
        self.what, self.unit = what, unit

    def __call__(self, done: int, total: int) -> None:
        """Say how far it is, if it is time."""
        now = self.clock()
        if done >= total:
            self.end()
        elif self.is_time(now):
            left = time_left(now - self.begin, done, total)
            self.say(f"{self.what}: {done}/{total} {self.unit}{left}", now)


class Stages(Line):
    """Says which stage of something is under way, and since when, on standard error.

    A stage may be one long call, so that a thread of its own looks at the clock, until the block ends.

    Args:
        what: What is done, such as ``verify``.
        active: Whether this worker speaks.
        stream: Where it is said; None takes standard error.
        clock: Says the time in seconds.
        every: Seconds between two looks at the clock.
    """

    def __init__(
        self,
        what: str,
        active: bool = True,
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        every: float = TERMINAL_SECONDS,
    ) -> None:
        super().__init__(active, stream, clock)
        self.what, self.every = what, every
        self.stage = ("", self.begin)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if self.active:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self.active:
            self._thread.join()
        self.end()

    def __call__(self, stage: str) -> None:
        """Note that a stage begins."""
        self.stage = (stage, self.clock())

    def tick(self) -> None:
        """Say which stage it is, if it is time."""
        now, (stage, since) = self.clock(), self.stage
        if self.is_time(now):
            self.say(f"{self.what}: {stage}  {now - since:.0f} s", now)

    def _look(self) -> None:
        while not self._over.wait(self.every):
            self.tick()
