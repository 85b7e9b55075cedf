"""Activation checkpointing of stages: forward keeps what the stage has received; backward computes the rest again.

    gpipe                    F0 F1 F2 F3 ...  r0 B0 r1 B1 r2 B2 r3 B3      r: forward again, within backward
    1f1b, the last stage     F0 B0 F1 B1 F2 B2 F3 B3                        goes back at once: nothing is computed again

Random numbers are those of the first time, and a batch norm's statistics are left as the first time has made them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ziggurat.parallel.pipeline.schedules import Order

T = TypeVar("T")


def kept_whole(order: Order) -> set[tuple[int, int]]:
    """Return the stages and microbatches whose backward follows their forward at once: there is nothing to save.

    Example:
        >>> from ziggurat.parallel.pipeline.schedules import one_forward_one_backward
        >>> [sorted(kept_whole(order)) for order in one_forward_one_backward(2, 2)]
        [[], [(1, 0), (1, 1)]]
    """
    return {
        (one.stage, one.microbatch)
        for one, following in itertools.pairwise(order)
        if one.kind == "forward" and following == ("backward", one.stage, one.microbatch)
    }


def share_again(orders: Sequence[Order], stage: int, num_microbatches: int) -> float:
    """Return the share of a stage's microbatches that go forward twice."""
    whole = sum(number == stage for number, _ in kept_whole(orders[stage % len(orders)]))
    return 1 - whole / num_microbatches if num_microbatches else 0.0


def recomputed(compute: Callable[[], T], changed: Sequence[Tensor], inputs: Sequence[Tensor]) -> T:
    """Return what a function returns, keeping of its inside nothing for backward, which calls it again.

    Args:
        compute: A function of tensors that it does not overwrite.
        changed: Buffers that it changes: the second call leaves them as they are.
        inputs: What it computes with, which says on which device.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _unchanged(changed)

    # to its end: where workers share images, all of them go through the same messages
    result: T = checkpoint(
        lambda *_: compute(), *inputs, use_reentrant=False, context_fn=contexts, early_stop=False
    )
    return result


@contextmanager
def _unchanged(buffers: Sequence[Tensor]) -> Iterator[None]:
    before = [buffer.clone() for buffer in buffers]
    yield
    for buffer, value in zip(buffers, before, strict=True):
        buffer.data.copy_(value)  # `.data`: of other microbatches, backward may have kept the buffer
