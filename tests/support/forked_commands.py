"""Commands in forks of the tests' process, which has imported the program: a process of its own takes seconds for that."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType

import psutil

from ziggurat.cli.main import main


class ForkedCommand:
    """Is to a test what ``subprocess.Popen([sys.executable, "-m", "ziggurat", ...], stderr=PIPE, text=True)`` is.

    The command has a session of its own. What it prints is left out.

    Args:
        words: Of the command, after the program's name.
        prepare: Is called in the new process first.

    Attributes:
        pid: Of the process.
        stderr: What it says.
    """

    def __init__(self, words: Sequence[str], prepare: Callable[[], None]) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            _run(words, prepare, writing)
        os.close(writing)
        self.process = psutil.Process(self.pid)
        self.stderr = os.fdopen(reading, encoding="utf-8")

    def wait(self, timeout: float) -> int | None:
        """Return the exit status; minus the signal's number if one has ended it."""
        return self.process.wait(timeout)

    def __enter__(self) -> ForkedCommand:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stderr.close()
        if kind is not None and self.process.is_running():
            for process in (*self.process.children(recursive=True), self.process):
                process.kill()
        self.process.wait(60)


def _run(words: Sequence[str], prepare: Callable[[], None], writing: int) -> None:
    """Be the process of a command, and do not return."""
    status = 1
    try:
        os.setsid()
        prepare()
        os.dup2(writing, 2)
        os.close(writing)
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process
        sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8")
        sys.argv = ["ziggurat", *words]
        status = main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - the test reads it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
