"""What of a run's config says how weights are found, and which are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ziggurat.config.fields import COUNT, PROBABILITY, SHARE, SHARES, STEPS, between, setting, zero_or


@dataclass(frozen=True)
class TrainConfig:
    """The optimization."""

    epochs: int = setting(12, "Passes over the data; unused if ``steps`` is positive.", between(0, COUNT))
    steps: int = setting(0, "Optimizer steps; 0 trains for ``epochs``.", between(0, STEPS))
    batch_size: int = setting(
        8, "Samples of one optimizer step, over all workers (the global batch).", between(1, COUNT)
    )
    microbatches: int = setting(
        0,
        "Pieces that the global batch is cut into; 0 stands for the degree of dp times that of pp that "
        "the run is started with, and is resolved before it starts.",
        between(0, COUNT),
    )
    optimizer: Literal["adamw", "sgd"] = setting("adamw", "``adamw`` or ``sgd``.")
    lr: float = setting(5e-4, "Peak learning rate.", between(1e-12, 1000.0))
    backbone_lr: float = setting(
        1.0,
        "Learning rate of the backbone as a share of ``lr``; of a classifier, of all but its last layer.",
        between(1e-6, 1000.0),
    )
    freeze: str = setting(
        "",
        "Parts of the network that are not trained: names of its modules with commas between, such as "
        "``backbone.body.conv1,backbone.body.layer1``, or ``backbone`` (of a classifier, all but its last layer). "
        "``model.norm=frozen`` keeps the running statistics of its batch norms, too.",
    )
    momentum: float = setting(0.9, "Momentum of SGD, or the first beta of AdamW.", SHARE)
    beta2: float = setting(0.999, "Second beta of AdamW.", SHARE)
    weight_decay: float = setting(
        0.05,
        "Decay of weights with more than one dim (never of biases, norms, position embeddings, class "
        "tokens, nor what a network of timm's names in ``no_weight_decay``).",
        between(0.0, 10.0),
    )
    warmup: float = setting(
        0.05,
        "Share of the steps in which the learning rate rises linearly; then it goes on as ``schedule`` says.",
        PROBABILITY,
    )
    schedule: Literal["cosine", "constant", "step", "onecycle"] = setting(
        "cosine",
        "After the warm-up: ``cosine`` falls to ``final_lr``, ``constant`` stays, ``step`` is multiplied by ``drop_factor`` "
        "at each of ``drops``, ``onecycle`` rises by half a cosine from 1/25 of ``lr`` during the warm-up (usually "
        "``warmup=0.3``) and falls by another to ``final_lr``.",
    )
    drops: str = setting(
        "0.67,0.89", "Shares of the steps at which ``schedule=step`` lowers the learning rate.", SHARES
    )
    drop_factor: float = setting(
        0.1, "What ``schedule=step`` multiplies the learning rate by.", between(1e-6, 1.0)
    )
    final_lr: float = setting(0.01, "Learning rate of the last step as a share of ``lr``.", PROBABILITY)
    clip_norm: float = setting(
        10.0, "Largest global norm of the gradient; 0 does not clip.", zero_or(1e-6, 1e6)
    )
    ema: float = setting(
        0.998,
        "Decay of the exponential moving average of the weights; 0 keeps none. Early in training the "
        "decay is ``(1 + step) / (10 + step)`` where that is smaller.",
        SHARE,
    )
    channels_last: bool = setting(
        True, "Memory format of images and weights: ``true`` is faster on CPUs and tensor cores."
    )
    checkpoint_every: int = setting(
        500, "Steps between checkpoints; 0 writes the last one only.", between(0, STEPS)
    )
    evaluate_every: int = setting(
        0, "Steps between evaluations; 0 evaluates at the end only.", between(0, STEPS)
    )
    patience: int = setting(
        0,
        "Evaluations in a row (``evaluate_every``) without a better main metric (``map50``, ``top1`` or ``miou``) after which "
        "training stops; 0 trains to the end. The learning rate is that of the whole length.",
        between(0, COUNT),
    )
    on_nonfinite: Literal["stop", "skip"] = setting(
        "stop",
        "When the loss or the gradient is not finite: ``stop``, or ``skip`` the step, which then changes "
        "nothing but the step's number, and is counted.",
    )
    report: Literal["pictures", "numbers"] = setting(
        "pictures",
        "What a run's report holds: ``pictures`` and numbers, or ``numbers`` alone, which takes a second less.",
    )


@dataclass(frozen=True)
class CheckpointConfig:
    """Which checkpoints stay; ``train.checkpoint_every`` says when they are written."""

    keep: int = setting(2, "Newest checkpoints that stay, at least 1.", between(1, COUNT))
    keep_best: int = setting(
        1,
        "Checkpoints with the best metric that stay too (``map50``, ``top1`` or ``miou``), of those that "
        "were evaluated (``train.evaluate_every``).",
        between(0, COUNT),
    )
    keep_every: int = setting(
        0,
        "Checkpoints whose step is a multiple of this number stay too; 0 keeps none of them.",
        between(0, STEPS),
    )
