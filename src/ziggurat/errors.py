"""The errors that Ziggurat raises on purpose.

A `UserError` is something that the user can mend: a command answers it with one message and exit status 2,
without a traceback. Any other exception is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """The user's input is wrong; the message lists every fault with its remedy.

    Args:
        faults: One sentence per fault: the rule, the offending values, the remedy.

    Example:
        >>> print(UserError(["epochs must be positive: got 0", "threads must be positive: got -1"]))
        2 faults:
          - epochs must be positive: got 0
          - threads must be positive: got -1
    """

    def __init__(self, faults: str | Iterable[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__(self.faults)

    def __str__(self) -> str:
        if len(self.faults) == 1:
            return self.faults[0]
        return "\n  - ".join([f"{len(self.faults)} faults:", *self.faults])


class Faults(list[str]):
    """The faults of several parts of an input, so that all of them are told at once.

    Example:
        >>> faults = Faults()
        >>> faults.of(int, "3"), faults.of(nearest, "spp", ["sp", "pp"])
        (3, "did you mean 'sp'?")
        >>> def fails(value: str) -> int:
        ...     raise UserError(f"not a number: {value}")
        >>> faults.of(fails, "x") is None, faults
        (True, ['not a number: x'])
    """

    def of(self, part: Callable[..., T], *args: Any) -> T | None:
        """Return what a part of the input comes to; None if it is wrong, and take its faults."""
        try:
            return part(*args)
        except UserError as error:
            self.extend(error.faults)
            return None


class Preempted(Exception):  # noqa: N818 - not an error: the run is to be started again
    """A signal has stopped the run before its end, and it can go on; the message says from where.

    Args:
        message: What was done, and how the run goes on.
        by_user: Whether it was Ctrl-C, and not a scheduler.
    """

    def __init__(self, message: str, by_user: bool = False) -> None:
        super().__init__(message)
        self.by_user = by_user


class CollectiveFailed(RuntimeError):  # noqa: N818 - reads as what happened
    """A collective, or a message between two workers, came to no end: another worker has ended, or is stuck.

    The message says which workers took part. It is a consequence: the cause is the other worker's own last message. A
    mistake of this worker alone (memory that is used up, shapes that do not fit) is never one.
    """


def nearest(name: str, known: Sequence[str], cutoff: float = 0.5) -> str:
    """Return a hint that names the known name most like `name`, or the known names if none is.

    Args:
        name: What there is not.
        known: What there is.
        cutoff: How like a name must be, from 0 to 1.

    Example:
        >>> nearest("batchsize", ["batch_size", "steps"])
        "did you mean 'batch_size'?"
    """
    close = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    if close:
        return f"did you mean '{close[0]}'?"
    shown = ", ".join(list(known)[:12]) + (", ..." if len(known) > 12 else "")
    return f"known: {shown}"
