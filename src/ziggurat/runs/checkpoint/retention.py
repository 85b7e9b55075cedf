"""Which checkpoints stay."""

from __future__ import annotations

from collections.abc import Mapping

from ziggurat.config import CheckpointConfig


def retained_steps(metrics: Mapping[int, float | None], config: CheckpointConfig) -> set[int]:
    """Return the steps whose checkpoints stay: the newest, the best, and every so many steps.

    Args:
        metrics: The metric of each checkpoint by its step (larger is better), None where it was not evaluated.
        config: How many of each kind stay.

    Example:
        >>> metrics = {10: 0.3, 20: 0.5, 30: None, 40: 0.4, 50: None}
        >>> sorted(retained_steps(metrics, CheckpointConfig(keep=2, keep_best=1, keep_every=30)))
        [20, 30, 40, 50]
    """
    steps = sorted(metrics)
    kept = set(steps[-config.keep :])
    measured = [(value, step) for step, value in metrics.items() if value is not None]
    kept |= {step for _, step in sorted(measured, reverse=True)[: config.keep_best]}
    if config.keep_every:
        kept |= {step for step in steps if step % config.keep_every == 0}
    return kept
