"""What defines a run, and what may differ when it goes on elsewhere."""

from __future__ import annotations

import hashlib
import json

from ziggurat.config.reading import flatten
from ziggurat.config.records import RunConfig

# Where a run is computed, how it is looked at, and what else it is not defined by.
FREE_ON_RESUME = {
    "plan", "device", "data.path", "data.val", "data.workers", "data.cache_bytes",
    "train.checkpoint_every", "train.evaluate_every", "train.report",
    "pipeline.cut", "pipeline.schedule", "pipeline.max_bytes", "pipeline.checkpoint", "pipeline.unit_bytes",
    "tensor.min_width",
    "checkpoint.keep", "checkpoint.keep_best", "checkpoint.keep_every",
    "launch.max_restarts", "launch.setup_seconds", "launch.step_seconds", "launch.checkpoint_seconds",
    "launch.evaluation_seconds", "launch.backend",
}  # fmt: skip


def definition_sha256(config: RunConfig) -> str:
    """Return a name for what defines a run: equal for two configs that differ in free settings only.

    Settings with their default are left out, so that a new setting does not rename the runs of before.

    Example:
        >>> from ziggurat.config import override
        >>> one = definition_sha256(override(RunConfig(), {"plan": "dp=2"}))
        >>> one == definition_sha256(RunConfig()), one == definition_sha256(override(RunConfig(), {"seed": 1}))
        (True, False)
    """
    default = flatten(RunConfig())
    settings = {
        name: value
        for name, value in flatten(config).items()
        if name not in FREE_ON_RESUME and value != default[name]
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
