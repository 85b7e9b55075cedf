"""Running a network without a trace in it: random numbers and buffers are afterwards what they were before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def random_state(device: torch.device) -> Tensor:
    """Return the state of the random numbers that are drawn on a device."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(state: Tensor, device: torch.device) -> None:
    """Go on with the random numbers of a state."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


@contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """Leave the network's buffers, and random numbers, as they were; also where the block raises."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for buffer, before in buffers:
            buffer.data.copy_(before)  # `.data`: autograd need not know
