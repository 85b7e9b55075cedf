"""Running a network without a trace in it: generators and buffers are afterwards what they were before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ziggurat.parallel.graph.generators import generators_as_before


@contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """Leave the network's buffers, and all generators, as they were; also where the block raises."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with generators_as_before():
            yield
    finally:
        for buffer, before in buffers:
            buffer.data.copy_(before)  # `.data`: autograd need not know
