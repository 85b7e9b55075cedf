"""What a worker does at each moment of a step: computing, sending, receiving, or waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch

Doing = Literal["forward", "backward", "send", "receive", "wait", "sum"]


class Span(NamedTuple):
    """One thing that a worker did.

    Attributes:
        doing: What kind of thing.
        name: Such as ``F2@1`` (forward of microbatch 2 in stage 1), or the worker at the other end.
        begin: Seconds since the trace was started.
        end: Likewise.
    """

    doing: Doing
    name: str
    begin: float
    end: float


@dataclass
class Trace:
    """The spans of one worker; they do not overlap.

    Attributes:
        device: Its work is waited for at both ends of a span.
        zero: When it was started; workers start theirs together.
        spans: In order.
    """

    device: torch.device
    zero: float = 0.0
    spans: list[Span] = field(default_factory=list)

    def start(self) -> None:
        """Let time begin."""
        self.zero = time.perf_counter()

    @contextmanager
    def span(self, doing: Doing, name: str) -> Iterator[None]:
        """Note what happens inside.

        Example:
            >>> trace = Trace(torch.device("cpu"))
            >>> with trace.span("forward", "F0@0"):
            ...     pass
            >>> trace.spans[0].name, trace.spans[0].end >= trace.spans[0].begin
            ('F0@0', True)
        """
        begin = self._now()
        yield
        self.spans.append(Span(doing, name, begin, self._now()))

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - self.zero


def noted(trace: Trace | None, doing: Doing, name: str) -> AbstractContextManager[None]:
    """Return a span of a trace, or nothing where none is taken."""
    return nullcontext() if trace is None else trace.span(doing, name)
