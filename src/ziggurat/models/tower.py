"""The stack of convolutions that a dense head applies to every level."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from ziggurat.models.norm import num_groups

PRIOR = (
    0.01  # probability of every class at the start, so that the many negatives do not drown the first steps
)


def make_tower(channels: int, depth: int, norm: Literal["group", "none"]) -> nn.Sequential:
    """Return `depth` times a convolution of 3 x 3, a norm and a ReLU, initialised as torchvision does."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers.append(make_predictor(channels, channels))
        if norm == "group":
            layers.append(nn.GroupNorm(num_groups(channels), channels))
        layers.append(
            nn.ReLU(inplace=True)
        )  # neither norm nor convolution needs its own output for its gradient
    return nn.Sequential(*layers)


def make_predictor(channels: int, outputs: int, prior: float = 0.5) -> nn.Conv2d:
    """Return a convolution of 3 x 3 whose logits start near the given probability.

    References:
        Lin et al., Focal Loss for Dense Object Detection, 2017, section 4.1. https://arxiv.org/abs/1708.02002
    """
    layer = nn.Conv2d(channels, outputs, 3, padding=1)
    nn.init.normal_(layer.weight, std=0.01)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, -math.log((1 - prior) / prior))
    return layer
