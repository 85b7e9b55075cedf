"""Learning rate, optimizer groups and the moving average."""

import itertools
import math

import pytest
import torch
from torch import nn

from ziggurat.config import TrainConfig
from ziggurat.training.optimization import WeightAverage, learning_rate, make_optimizer


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


def test_the_average_forgets_the_start_and_then_decays():
    net = nn.BatchNorm1d(1)
    average = WeightAverage(net, decay=0.5)
    net.weight.data.fill_(11.0)
    net.num_batches_tracked.fill_(4)
    average.update(0)  # decay 0.1
    assert average.model.weight.item() == pytest.approx(0.1 * 1 + 0.9 * 11)
    assert average.model.num_batches_tracked.item() == 4
    average.update(1000)  # decay 0.5
    assert average.model.weight.item() == pytest.approx(0.5 * 10 + 0.5 * 11)
    assert not average.model.weight.requires_grad


def test_without_decay_the_average_is_the_model():
    net = nn.Linear(1, 1)
    average = WeightAverage(net, decay=0)
    average.update(0)
    assert average.model is net
    assert torch.is_tensor(net.weight)
