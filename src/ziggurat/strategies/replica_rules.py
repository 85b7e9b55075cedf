"""What a run by local SGD cannot be computed with, said before any process starts."""

from __future__ import annotations

from ziggurat.config import RunConfig
from ziggurat.strategies.plan import Plan
from ziggurat.strategies.registry import STRATEGIES
from ziggurat.strategies.shares import EVEN

SETTING = "local_sgd.replicas"


def replica_faults(config: RunConfig, plan: Plan, microbatches: int) -> list[str]:
    """Return why a run by local SGD cannot be computed so; nothing of other runs.

    Args:
        config: Of the run.
        plan: Of its workers.
        microbatches: Of a step.
    """
    count = config.local_sgd.replicas
    if not count:
        return []
    faults = []
    fitting = [axis for axis, kind in STRATEGIES.items() if kind.takes_replicas]
    others = [axis for axis in plan.degrees if axis not in fitting]
    if others:
        faults.append(
            f"{SETTING} spreads replicas over plans of {' and '.join(fitting)} alone: got {plan}; leave out {' and '.join(others)}, "
            f"or {SETTING}"
        )
    elif plan.num_workers > count:
        faults.append(
            f"each worker needs a replica: the plan {plan} has {plan.num_workers} workers, and {SETTING} is {count}: take fewer "
            "workers, or more replicas"
        )
    if microbatches % count:
        faults.append(
            f"microbatches must be a multiple of {SETTING}: got {microbatches} and {count}: use --microbatches "
            f"{-(-microbatches // count) * count}"
        )
    if config.pipeline.shard_optimizer:
        faults.append(
            f"plan.shard_optimizer divides what one optimizer keeps, and with {SETTING} each replica has one: leave it out"
        )
    if config.pipeline.shares != EVEN:
        faults.append(
            f"plan.shares={config.pipeline.shares} has no effect with {SETTING}: a worker takes the microbatches of its replicas; leave it out"
        )
    if config.pipeline.wire != "fp32":
        faults.append(
            f"plan.wire={config.pipeline.wire} rounds the gradients of steps, which replicas of {SETTING} do not send each other: leave it out"
        )
    if config.loss.detection == "equalized":
        faults.append(
            f"loss.detection=equalized sums up gradients of all microbatches in every step, which replicas of {SETTING} do not know: take "
            "loss.detection=focal"
        )
    return faults
