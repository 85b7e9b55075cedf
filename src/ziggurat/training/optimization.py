"""The optimizer, its learning rate, and the moving average of the weights: all pure functions of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from ziggurat.config import TrainConfig
from ziggurat.training.optimizers import SGD, AdamW
from ziggurat.training.parameter_groups import parameter_groups

FIRST_OF_CYCLE = 1 / 25  # share of the peak learning rate that one cycle starts at


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimizer of a model's trained parameters, in the groups of `parameter_groups`."""
    groups = parameter_groups(model, config)
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.lr, momentum=config.momentum)
    return AdamW(groups, lr=config.lr, betas=(config.momentum, config.beta2))


def learning_rate(step: int, num_steps: int, config: TrainConfig) -> float:
    """Return the learning rate of a step: a warm-up, then what ``train.schedule`` says; a pure function.

    ``cosine``    a linear warm-up, then a cosine down to ``lr * final_lr``
    ``constant``  a linear warm-up, then ``lr``
    ``step``      a linear warm-up, then ``lr``, multiplied by ``drop_factor`` at each of ``drops``
    ``onecycle``  half a cosine up from ``lr / 25``, then one down to ``lr * final_lr``

    References:
        Loshchilov and Hutter, SGDR, 2017, equation 5. https://arxiv.org/abs/1608.03983
        Smith and Topin, Super-Convergence, 2018 (with cosines, as PyTorch's ``OneCycleLR``). https://arxiv.org/abs/1708.07120

    Example:
        >>> config = TrainConfig(lr=1.0, warmup=0.5, final_lr=0.0)
        >>> [round(learning_rate(step, 4, config), 2) for step in range(4)]
        [0.5, 1.0, 1.0, 0.5]
        >>> config = TrainConfig(lr=1.0, warmup=0.0, schedule="step", drops="0.5,0.75", drop_factor=0.5)
        >>> [learning_rate(step, 4, config) for step in range(4)]
        [1.0, 1.0, 0.5, 0.25]
    """
    warmup = round(num_steps * config.warmup)
    if step < warmup:
        if config.schedule == "onecycle":
            return config.lr * _cosine(FIRST_OF_CYCLE, 1.0, step / warmup)
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "step":
        passed = sum(step >= round(num_steps * float(share)) for share in config.drops.split(","))
        return config.lr * config.drop_factor**passed
    return config.lr * _cosine(1.0, config.final_lr, (step - warmup) / max(1, num_steps - warmup))


def _cosine(start: float, end: float, progress: float) -> float:
    """Return where half a cosine between two values is."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every group; one with an ``lr_scale`` gets that share of it."""
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("lr_scale", 1.0)
