"""The command line from its first instant: what Ctrl-C does before anything is imported, and where output goes.

This module imports nothing but Python's own smallest parts, so that its handler is there some hundredths of a second
after the process has started; PyTorch alone takes seconds. Until the command itself begins, nothing has been made that
would have to be cleaned up, and an exception may get lost in a library that is being imported: so Ctrl-C ends the process
on the spot. From then on it raises `KeyboardInterrupt`, and training takes note of it (`parallel/runtime/preemption.py`).
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # as of typing, whose import takes longer than all that this module does
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

INTERRUPTED = 130  # as a shell says of a program that SIGINT has ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        arguments: Of the command line; None takes those of this process, which is then the command's own: what Ctrl-C does in
            it, and where its output goes, is set up here.
    """
    if arguments is not None:
        from ziggurat.cli.running import run

        return run(arguments)
    return _own_process()


def _own_process() -> int:
    """Run the command of this process's arguments."""
    hears = (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )  # not what nohup or a shell's & ignores
    if hears:
        signal.signal(
            signal.SIGINT,
            _leave(b"\nziggurat: interrupted before it began; nothing was written\n", INTERRUPTED),
        )
    from ziggurat.cli.running import run
    from ziggurat.system.streams import prepare_streams

    prepare_streams()

    def begins() -> None:
        if hears:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    status = run(None, begins)
    if hears:  # while the interpreter cleans up there is nothing left to interrupt
        signal.signal(signal.SIGINT, _leave(b"", status))
    return status


def _leave(words: bytes, status: int) -> Callable[[int, FrameType | None], None]:
    """Return a handler of signals that ends this process at once.

    Args:
        words: For standard error.
        status: Of the process.
    """
    process = os.getpid()

    def leave(number: int, frame: FrameType | None) -> None:
        try:
            if words and os.getpid() == process:
                os.write(2, words)
        finally:
            os._exit(status)

    return leave
