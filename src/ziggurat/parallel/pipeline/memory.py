"""What a stage will need of memory in a training step, as far as its schedule and its costs tell.

Besides weights, gradients and activations there are what a single layer needs while it computes, messages on their way, and
the loss: they are not predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ziggurat.parallel.collectives.canonical import gradients_held
from ziggurat.parallel.pipeline.balance import StageCost
from ziggurat.parallel.pipeline.recompute import kept_whole
from ziggurat.parallel.pipeline.schedules import Order


@dataclass(frozen=True)
class StageMemory:
    """Bytes that a stage needs.

    Attributes:
        weights: Parameters and buffers.
        gradients: The sums that the canonical sum keeps at once.
        activations: Of all microbatches that are alive at once.
    """

    weights: int
    gradients: int
    activations: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.activations


def predict_memory(
    cost: StageCost,
    orders: Sequence[Order],
    stage: int,
    again: bool = False,
    held: Sequence[tuple[int, int]] | None = None,
) -> StageMemory:
    """Return what a stage needs when it needs most: the more gradients there are, the fewer activations.

    Args:
        cost: Of the stage.
        orders: Of each worker.
        stage: Its number.
        again: Whether activations are computed again: then what was received is kept, and all of the one microbatch that
            goes back.
        held: Gradients at once before each backward pass, and at its end; by default as `gradients_held` has them where all
            microbatches are this pipeline's.

    Example:
        >>> from ziggurat.parallel.pipeline.schedules import one_forward_one_backward
        >>> orders = one_forward_one_backward(2, 4)
        >>> predict_memory(StageCost("", 1.0, state_bytes=10, kept_bytes=100, crossing_bytes=0), orders, 0)
        StageMemory(weights=10, gradients=10, activations=200)
    """
    order = orders[stage % len(orders)]
    whole = kept_whole(order) if again else set()
    if held is None:
        count = sum(action.stage == stage and action.kind == "forward" for action in order)
        held = gradients_held(range(count), count)
    moments = [StageMemory(cost.state_bytes, 0, 0)]
    alive = summed = gradients = 0
    for action in order:
        if action.stage != stage:
            continue
        forward = action.kind == "forward"
        alive += forward
        kept = alive * (cost.crossing_bytes if again else cost.kept_bytes)
        if again and (not forward or (stage, action.microbatch) in whole):
            kept += cost.kept_bytes - cost.crossing_bytes
        moments.append(StageMemory(cost.state_bytes, gradients * cost.state_bytes, kept))
        if (
            not forward
        ):  # at its end there is one microbatch less, and one gradient more, or one in which two are added
            alive, summed = alive - 1, summed + 1
            kept = alive * (cost.crossing_bytes if again else cost.kept_bytes)
            moments.append(StageMemory(cost.state_bytes, held[summed - 1][1] * cost.state_bytes, kept))
            gradients = held[summed][0] if summed < len(held) else 0
    return max(moments, key=lambda moment: moment.total)
