"""What a step costs a worker, by rule of thumb: from the step of one worker, each axis of a plan says what it makes of it.

    one worker   s seconds, m microbatches  --dp=2-->  s / 2, m / 2  --sp=2-->  s / 4, half of each activation  ...

The rules know of no network: they take it that what an axis spreads it spreads evenly, that messages travel while workers
compute, and that halos are small. So an estimate is a bound which a plan does not reach, and what is measured says how far it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True)
class StepCost:
    """What a training step costs the worker that has most to do.

    Attributes:
        seconds: Of computing, and of waiting for those who compute before or after it.
        num_microbatches: That it computes, each by itself or with others.
        weight_bytes: Of the weights that it holds between steps.
        kept_bytes: Of what else it holds between steps: gradients, average, moments.
        activation_bytes: Of what backward needs, of one microbatch, as far as it holds it.
        num_alive: Microbatches whose activations are alive at once.
        bytes_sent: Of sums over workers in a step.
    """

    seconds: float
    num_microbatches: int
    weight_bytes: float
    kept_bytes: float
    activation_bytes: float
    num_alive: int = 1
    bytes_sent: float = 0.0

    @property
    def peak_bytes(self) -> float:
        """Most bytes of tensors that are alive at once."""
        return self.weight_bytes + self.kept_bytes + self.num_alive * self.activation_bytes

    def spread_samples(self, size: int) -> Self:
        """Return the cost where a number of workers take the microbatches: the one that has most of them."""
        mine = -(-self.num_microbatches // size)
        part = mine / max(1, self.num_microbatches)
        return replace(self, seconds=self.seconds * part, num_microbatches=mine)

    def share_computation(self, size: int) -> Self:
        """Return the cost where a number of workers compute each microbatch together, with a part of its activations each."""
        return replace(self, seconds=self.seconds / size, activation_bytes=self.activation_bytes / size)

    def share_state(self, size: int) -> Self:
        """Return the cost where a number of workers have a part of the weights each, and of all that goes with them."""
        return replace(
            self, weight_bytes=self.weight_bytes / size, kept_bytes=self.kept_bytes / size
        )  # fmt: skip

    def sum_gradients(self, size: int, passes: int = 2) -> Self:
        """Return the cost where gradients are summed over a number of workers.

        Args:
            size: Of the ring.
            passes: How often a ring carries the bytes of all weights: twice for an all-reduce.
        """
        sent = passes * (size - 1) / size * self.weight_bytes
        return replace(self, bytes_sent=self.bytes_sent + sent)
