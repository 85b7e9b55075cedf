"""The workers along one spatial axis, and what talking to them has cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ziggurat.parallel.collectives.clock import Clock
from ziggurat.parallel.collectives.workers import Workers


@dataclass
class Traffic:
    """What an axis has cost so far.

    Attributes:
        bytes_sent: By this worker.
        messages: Sent by this worker; a sum over workers counts as one.
        clock: Of the time in which this worker waited for others.
        moving: Seconds in which its process copied rows and handed them over.
    """

    bytes_sent: int = 0
    messages: int = 0
    clock: Clock = field(default_factory=Clock)
    moving: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds in which this worker waited for others; under CUDA this waits for the device."""
        return self.clock.seconds

    @contextmanager
    def move(self) -> Iterator[None]:
        """Count the seconds of a block as moving, except those in which it waits."""
        begin, waited = time.perf_counter(), self.clock.host_seconds
        yield
        self.moving += time.perf_counter() - begin - (self.clock.host_seconds - waited)


@dataclass
class Axis:
    """One spatial axis of the mesh.

    Attributes:
        workers: Its workers.
        place: Which of a tensor's spatial dims it cuts: 0 for rows (of volumes: slices), 1 for columns.
        traffic: What it has cost.
    """

    workers: Workers
    place: int
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def size(self) -> int:
        """How many workers."""
        return self.workers.size

    @property
    def rank(self) -> int:
        """This worker's number along the axis."""
        return self.workers.rank
