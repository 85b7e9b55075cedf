"""What a worker does, noted as it happens: the events of its `Program`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch

from ziggurat.parallel.collectives.observer import Talk
from ziggurat.planning.program import VIEW, Event, Kernel, Mark, Start, Wait, spread_operation

T = TypeVar("T")


class Events:
    """The events of one worker, in order; an `Observer` of its messages.

    Args:
        is_real: Whether memory that workers share is written to.
        workers_per_machine: Neighbours that share a machine, and its memory; 0 for all.
        seconds: Of a kernel.
        shares_memory: Whether workers of a machine exchange through its memory: those with devices of their own do not.

    Attributes:
        noted: So far.
        is_noting: Whether what happens is noted.
        in_message: Whether a message is being begun, which is noted as a whole.
        now: Seconds of all kernels so far.
    """

    def __init__(
        self,
        is_real: bool = True,
        workers_per_machine: int = 0,
        seconds: Callable[[Kernel], float] = lambda kernel: 0.0,
        shares_memory: bool = True,
    ) -> None:
        self.is_real, self.workers_per_machine = is_real, workers_per_machine
        self.shares_memory = shares_memory
        self.seconds, self.now = seconds, 0.0
        self.noted: list[Event] = []
        self.is_noting = False
        self.in_message = False
        self._starts = 0
        self._of_operations = 0  # of the starts, those that belong to an operation that was noted

    def shared_memory(self, ranks: Sequence[int]) -> Literal["reserved", "promised", "none"]:
        """Return what memory is to workers that want to share it."""
        if not self.shares_memory:
            return "none"
        if self.workers_per_machine and len({rank // self.workers_per_machine for rank in ranks}) > 1:
            return "none"
        return "reserved" if self.is_real else "promised"

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note what happens in a block, from nothing."""
        self.noted, self._starts, self._of_operations, self.is_noting = [], 0, 0, True
        try:
            yield
        finally:
            self.is_noting = False

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Note nothing of what happens in a block."""
        before, self.is_noting = self.is_noting, False
        try:
            yield
        finally:
            self.is_noting = before

    def kernel(self, kernel: Kernel) -> None:
        """Note that an operator is called."""
        self.now += self.seconds(kernel)
        if self.is_noting and not self.in_message:  # what begins a message is noted as the message
            self.noted.append(kernel)

    def view(self) -> None:
        """Note that an operator is called that computes nothing."""
        if self.is_noting and not self.in_message:
            self.noted.append(VIEW)

    def mark(self, name: str) -> None:
        """Note a place for people."""
        if self.is_noting:
            self.noted.append(Mark(name))

    @contextmanager
    def message(
        self,
        kind: Talk,
        ranks: Sequence[int],
        num_bytes: int = 0,
        sends: Sequence[tuple[int, int]] = (),
        receives: Sequence[tuple[int, int]] = (),
    ) -> Iterator[Callable[[], None]]:
        """Note a message that is begun inside, and its wait when what is given is called."""
        number = self._starts
        if self.is_noting:
            self.noted.append(Start(kind, tuple(ranks), tuple(sends), tuple(receives), num_bytes))
            self._starts += 1
        is_noted = self.is_noting
        self.in_message, before = True, self.in_message
        try:
            yield lambda: self._waited(number) if is_noted else None
        finally:
            self.in_message = before

    def operation(self, kind: str, run: Callable[[], T]) -> T:
        """Compute an operation on spread tensors and note it, behind what it is made of; what it sends belongs to the innermost one."""
        starts, others = self._starts, self._of_operations
        result = run()
        own = self._starts - starts - (self._of_operations - others)
        self._of_operations += own
        if self.is_noting and not self.in_message:
            self.noted.append(spread_operation(kind, own > 0, torch.is_grad_enabled()))
        return result

    def _waited(self, number: int) -> None:
        if self.is_noting:
            self.noted.append(Wait(number))
