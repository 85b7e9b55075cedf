"""Programs in forks of the tests' process, which has imported what they need: a process of its own takes seconds for that."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from ziggurat.cli.main import main

STDOUT, STDERR = 1, 2


class Forked:
    """Is to a test what a `subprocess.Popen` is: a program in a session of its own, one of whose streams is read.

    Args:
        run: Is called in the new process, and returns its exit status.
        stream: `STDOUT` or `STDERR`, which the test reads.

    Attributes:
        pid: Of the process.
        stdout: What it writes there; None if this is not read.
        stderr: Likewise.
    """

    def __init__(self, run: Callable[[], int], stream: int) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            _be(run, stream, writing)
        os.close(writing)
        self.process = psutil.Process(self.pid)
        read = os.fdopen(reading, encoding="utf-8")
        self.stdout: io.TextIOBase | None = read if stream == STDOUT else None
        self.stderr: io.TextIOBase | None = read if stream == STDERR else None

    def wait(self, timeout: float) -> int | None:
        """Return the exit status; minus the signal's number if one has ended it."""
        return self.process.wait(timeout)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process, if it is there, and wait for its end."""
        if self.process.is_running():
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(60)

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        if kind is not None and self.process.is_running():
            for child in self.process.children(recursive=True):
                child.kill()
        self.kill() if kind is not None else self.process.wait(60)


def forked_command(words: Sequence[str], prepare: Callable[[], None]) -> Forked:
    """Return ``python -m ziggurat`` with words, whose standard error is read; what it prints is left out.

    Args:
        words: After the program's name.
        prepare: Is called in the new process first.
    """

    def run() -> int:
        prepare()
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process
        sys.argv = ["ziggurat", *words]
        return main()

    return Forked(run, STDERR)


def _be(run: Callable[[], int], stream: int, writing: int) -> None:
    """Be the process, and do not return."""
    status: Any = 1
    try:
        os.setsid()
        os.dup2(writing, stream)
        os.close(writing)
        sys.stderr = os.fdopen(STDERR, "w", buffering=1, encoding="utf-8")
        status = run()
    except SystemExit as error:
        status = error.code
    except BaseException:  # noqa: BLE001 - the test reads it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)
