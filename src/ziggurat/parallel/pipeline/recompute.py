"""When a stage's activations are computed again instead of kept: a question of the schedule.

    gpipe                    F0 F1 F2 F3 ...  r0 B0 r1 B1 r2 B2 r3 B3      r: forward again, within backward
    1f1b, the last stage     F0 B0 F1 B1 F2 B2 F3 B3                        goes back at once: nothing is computed again

How it is done says `graph.recompute`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ziggurat.parallel.pipeline.schedules import Order


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
