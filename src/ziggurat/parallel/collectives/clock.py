"""How long a worker has waited for others, on the CPU or on a GPU.

On a GPU a wait returns at once: it is the device's stream that waits. So two events are put into the stream, around the
wait, and their distance is read when somebody asks for the seconds, at the latest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Adds up the seconds in which this worker waits.

    Attributes:
        host_seconds: In which the process waited; under CUDA only a part of it.

    Example:
        >>> clock = Clock()
        >>> with clock.span(torch.device("cpu")):
        ...     time.sleep(0.01)
        >>> clock.seconds == clock.host_seconds > 0
        True
    """

    def __init__(self) -> None:
        self.host_seconds = 0.0
        self._device_seconds = 0.0
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @property
    def seconds(self) -> float:
        """All seconds so far; under CUDA this waits for the device."""
        for begin, end in self._spans:
            end.synchronize()
            self._device_seconds += begin.elapsed_time(end) / 1000
        self._spans = []
        return self._device_seconds or self.host_seconds

    @contextmanager
    def span(self, device: torch.device) -> Iterator[None]:
        """Count a block in which this worker waits for work of a device."""
        begin = time.perf_counter()
        events = None
        if device.type == "cuda":
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record(torch.cuda.current_stream(device))
        yield
        if events is not None:
            events[1].record(torch.cuda.current_stream(device))
            self._spans.append(events)
        self.host_seconds += time.perf_counter() - begin
