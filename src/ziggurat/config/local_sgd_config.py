"""What of a run's config says that replicas of the model train by themselves between two exchanges."""

from __future__ import annotations

from dataclasses import dataclass

from ziggurat.config.fields import SHARE, STEPS, between, setting, zero_or

MOST_REPLICAS = 64


@dataclass(frozen=True)
class LocalSgdConfig:
    """Local SGD: replicas that train by themselves, and are averaged every so many steps."""

    replicas: int = setting(
        0,
        "Replicas of the model under dp that each train on their own microbatches of every step, and are averaged by an outer step every "
        "``sync_every`` steps; they are part of the run's definition, and lie on as many workers as there are, or fewer. 0 has none.",
        zero_or(2, MOST_REPLICAS),
    )
    sync_every: int = setting(10, "Steps between two outer steps.", between(1, STEPS))
    outer_lr: float = setting(
        0.7,
        "Learning rate of the outer step, whose gradient is the mean of what the replicas have moved by; 1 without momentum takes their "
        "mean.",
        between(1e-6, 10.0),
    )
    outer_momentum: float = setting(0.9, "Nesterov momentum of the outer step; 0 keeps none.", SHARE)
