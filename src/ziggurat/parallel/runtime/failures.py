"""How workers fail, as their launcher tells it (to the other workers the loss of one is `errors.CollectiveFailed`)."""

from __future__ import annotations


class WorkerFailed(RuntimeError):  # noqa: N818 - reads as what happened
    """A worker ended by an error that is not the user's; the message is that worker's own traceback."""


class WorkerLost(WorkerFailed):
    """A worker died, was killed, or hung: nothing is wrong with the program, and another attempt may succeed.

    Args:
        message: Which worker, how, and what it was doing.
        step: The furthest step that any worker was in, from 0; -1 if none was in a step.
    """

    def __init__(self, message: str, step: int = -1) -> None:
        super().__init__(message)
        self.step = step


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """The user ended the run at once: by Ctrl-C outside of training or for the second time, or by SIGQUIT.

    Args:
        message: What is left of it, and how it goes on.
    """

    def __init__(self, message: str = "interrupted; all workers have ended") -> None:
        super().__init__(message)
