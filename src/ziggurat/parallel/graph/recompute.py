"""Activation checkpointing of stages: forward keeps what the stage has received; backward computes the rest again.

Random numbers are those of the first time, and a batch norm's statistics are left as the first time has made them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import numpy as np
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ziggurat.parallel.graph.generators import Generators, others_as_before

T = TypeVar("T")


def recomputed(compute: Callable[[], T], changed: Sequence[Tensor], inputs: Sequence[Tensor]) -> T:
    """Return what a function returns, keeping of its inside nothing for backward, which calls it again.

    Args:
        compute: A function of tensors that it does not overwrite.
        changed: Buffers that it changes: the second call leaves them as they are.
        inputs: What it computes with, which says on which device.
    """
    begin = Generators(
        numpy=np.random.get_state(), python=random.getstate()
    )  # of PyTorch's checkpoint takes care

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _again(changed, begin)

    # to its end: where workers share images, all of them go through the same messages
    result: T = checkpoint(
        lambda *_: compute(), *inputs, use_reentrant=False, context_fn=contexts, early_stop=False
    )
    return result


@contextmanager
def _again(buffers: Sequence[Tensor], begin: Generators) -> Iterator[None]:
    before = [buffer.clone() for buffer in buffers]
    with others_as_before():
        begin.set()
        yield
    for buffer, value in zip(buffers, before, strict=True):
        buffer.data.copy_(value)  # `.data`: of other microbatches, backward may have kept the buffer
