"""Learning rate and optimizer groups."""

import itertools
import math

import pytest
from torch import nn

from ziggurat.config import TrainConfig
from ziggurat.training.optimization import learning_rate, make_optimizer


def test_the_learning_rate_rises_and_falls_as_a_cosine():
    config = TrainConfig(lr=2.0, warmup=0.25, final_lr=0.1)
    rates = [learning_rate(step, 8, config) for step in range(8)]
    assert rates[:3] == [1.0, 2.0, 2.0]
    assert rates[5] == pytest.approx(2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2))
    assert all(late < early for early, late in itertools.pairwise(rates[2:]))
    assert rates[-1] > 0.2


def test_no_warm_up_starts_at_the_peak():
    assert learning_rate(0, 3, TrainConfig(lr=1.0, warmup=0.0)) == 1.0


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_only_weights_are_decayed(name):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    net[0].bias.requires_grad_(False)
    groups = make_optimizer(net, TrainConfig(optimizer=name, weight_decay=0.3)).param_groups
    assert [(g["weight_decay"], len(g["params"])) for g in groups] == [(0.3, 1), (0.0, 2)]
