"""Data parallelism (dp): the microbatches of a step are spread over workers, and their sums do not depend on how.

Where several workers share each image (sp), each has a *part* of a microbatch's gradient and losses: the parts are added up
after the canonical sum over dp, so that the result has the same bits on any degree of dp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ziggurat.strategies.base import Strategy
from ziggurat.strategies.estimate import StepCost


class DataParallel(Strategy):
    """Whole microbatches, each on one worker (or on those of the other axes); every worker has all weights."""

    axis = "dp"
    meaning = "samples"
    inwards = 0
    spreads_samples = True
    wants_microbatches = True
    replicates_state = True
    goes_with_rows = True
    takes_replicas = True
    own_pace = True
    settings = ("pipeline.shard_optimizer", "pipeline.shares")
    savers: ClassVar[Mapping[str, Any]] = {"pipeline.shard_optimizer": True}

    @classmethod
    def estimate(cls, cost: StepCost, size: int) -> StepCost:
        """Microbatches are spread, and their gradients are summed."""
        return cost.sum_gradients(size).spread_samples(size)
