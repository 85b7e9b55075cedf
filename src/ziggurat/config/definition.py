"""What defines a run, and what may differ when it goes on elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Set

from ziggurat.config.reading import flatten
from ziggurat.config.records import RunConfig

# Where a run is computed, how it is looked at, and what else it is not defined by.
FREE_ON_RESUME = {
    "plan", "device", "data.path", "data.val", "data.workers", "data.cache_bytes", "data.shown", "data.stretch",
    "train.checkpoint_every", "train.evaluate_every", "train.patience", "train.report",
    "pipeline.cut", "pipeline.schedule", "pipeline.max_bytes", "pipeline.checkpoint", "pipeline.unit_bytes",
    "pipeline.shard_optimizer", "pipeline.shares", "pipeline.replan", "pipeline.replan_every", "tensor.min_width",
    "checkpoint.keep", "checkpoint.keep_best", "checkpoint.keep_every",
    "launch.max_restarts", "launch.setup_seconds", "launch.step_seconds", "launch.checkpoint_seconds",
    "launch.evaluation_seconds", "launch.backend", "launch.hierarchy",
}  # fmt: skip
# How long a run is: one that has come to its end may go on. The schedule of what follows is that of the new length.
EXTENDABLE = {"train.steps", "train.epochs"}


def definition_sha256(config: RunConfig) -> str:
    """Return a name for what defines a run: equal for two configs that differ in free settings and in length only.

    Settings with their default are left out, so that a new setting does not rename the runs of before.

    Example:
        >>> from ziggurat.config import override
        >>> one = definition_sha256(override(RunConfig(), {"plan": "dp=2"}))
        >>> one == definition_sha256(RunConfig()), one == definition_sha256(override(RunConfig(), {"seed": 1}))
        (True, False)
    """
    return _sha256_without(config, FREE_ON_RESUME | EXTENDABLE)


def earlier_definition(config: RunConfig) -> str:
    """Return the name by which earlier versions knew a run: its length was part of it."""
    return _sha256_without(config, FREE_ON_RESUME)


def _sha256_without(config: RunConfig, free: Set[str]) -> str:
    default = flatten(RunConfig())
    settings = {
        name: value for name, value in flatten(config).items() if name not in free and value != default[name]
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
