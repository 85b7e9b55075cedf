"""What the time of this worker's steps goes into: computing by itself, the exchange, waiting for others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ziggurat.parallel.collectives.clock import Clock
from ziggurat.parallel.collectives.workers import Workers


class Spent(NamedTuple):
    """Seconds of this worker since its pace was asked for.

    Attributes:
        computing: In forward and backward, waits for other workers left out.
        passes: In forward and backward, with waits.
        summing: In the exchange of gradients, with waits.
        waiting: For others, outside of forward and backward.
    """

    computing: float
    passes: float
    summing: float
    waiting: float

    def since(self, before: Spent) -> Spent:
        """Return what was spent since another time."""
        return Spent(*(now - then for now, then in zip(self, before, strict=True)))


class Pace:
    """Clocks of one worker, which stand still until `measure`.

    Args:
        workers: All workers of the run.
    """

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.is_measured = False
        self._passes, self._waits_in_passes = Clock(), Clock()
        self._summing, self._waits = Clock(), Clock()

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Let the clocks go while a block runs, in this thread."""
        before = self.workers.time_waits(self._waits)
        self.is_measured = True
        try:
            yield
        finally:
            self.is_measured = False
            self.workers.time_waits(before)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Count a block in which microbatches are run."""
        if not self.is_measured:
            yield
            return
        before = self.workers.time_waits(self._waits_in_passes)
        try:
            with self._passes.span(self.workers.device):
                yield
        finally:
            self.workers.time_waits(before)

    @contextmanager
    def summing(self) -> Iterator[None]:
        """Count a block in which gradients are summed over workers."""
        if not self.is_measured:
            yield
            return
        with self._summing.span(self.workers.device):
            yield

    def spent(self) -> Spent:
        """Return what was spent so far; under CUDA this waits for what was counted."""
        passes = self._passes.seconds
        return Spent(
            max(0.0, passes - self._waits_in_passes.seconds),
            passes,
            self._summing.seconds,
            self._waits.seconds,
        )
