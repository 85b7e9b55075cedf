"""Where a command's output goes: closed streams, streams of few characters, and readers that leave.

Standard output holds results, standard error what is said on the way. A result that nobody reads is told by the exit status; of
what is said on the way a run does not depend: when its terminal is closed, the reader of its pipe has left or the disk of its file is
full, it is dropped, and ``log.txt`` of a run still has it.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import IO, Any


def prepare_streams() -> None:
    """Make sure that writing to this process's standard streams never fails for what is written, nor standard error at all."""
    for number in range(3):  # one that is closed would become that of the next file that is opened
        try:
            os.fstat(number)
        except OSError:
            _to_nowhere(number)
    sys.stdout = sys.stdout or _nowhere()  # None where Python has found it closed
    sys.stderr = sys.stderr or _nowhere()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # names of files that are no text, or an encoding with few characters
    if not isinstance(sys.stdout, Telling):
        sys.stdout = Telling(sys.stdout)
    if not isinstance(sys.stderr, Dropping):
        sys.stderr = Dropping(sys.stderr)  # all that is asked of a stream, it hands on


class Dropping:
    """A text stream that drops what it cannot write.

    Args:
        stream: The stream that is written to, as long as it can be.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        try:
            self._stream.write(text)
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """Write what is kept back, or drop it."""
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        """Let the rest go nowhere: what the buffer keeps would fail again, at the latest when the process ends."""
        _to_nowhere(self._stream.fileno())


def reader_is_gone() -> bool:
    """Whether who reads the standard output has closed it, as ``head`` does; then what is left for it goes nowhere."""
    output = sys.stdout.fileno()
    look = select.poll()
    look.register(output, 0)
    if not look.poll(0):
        return False
    _to_nowhere(output)
    return True


class Telling:
    """A text stream that remembers what was in the way of writing it.

    Args:
        stream: The stream that is written to.

    Attributes:
        fault: What was in the way last; None if nothing ever was.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.fault: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text.

        Raises:
            OSError: If it cannot be written.
        """
        try:
            return self._stream.write(text)
        except OSError as error:
            self.fault = error
            raise

    def flush(self) -> None:
        """Write what is kept back.

        Raises:
            OSError: If it cannot be written.
        """
        try:
            self._stream.flush()
        except OSError as error:
            self.fault = error
            raise


def output_fault() -> str | None:
    """Return why standard output could not be written, as on a full disk; then what is left for it goes nowhere. None if it could be."""
    fault: OSError | None = getattr(sys.stdout, "fault", None)
    if fault is None:
        return None
    _to_nowhere(sys.stdout.fileno())
    return fault.strerror or str(fault)


def _to_nowhere(number: int) -> None:
    """Let a file descriptor lead to nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:  # it may have become the one that was closed
        os.dup2(nowhere, number)
        os.close(nowhere)


def _nowhere() -> IO[str]:
    return open(os.devnull, "w", encoding="utf-8")
