"""Learning rate and optimizer groups."""

import itertools
import math

import pytest
import torch
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


def rates(num_steps=20, **settings):
    config = TrainConfig(lr=2.0, **settings)
    return [learning_rate(step, num_steps, config) for step in range(num_steps)]


def test_a_constant_rate_stays_after_its_warm_up():
    assert rates(8, schedule="constant", warmup=0.25) == [1.0, *[2.0] * 7]


def test_steps_are_those_of_pytorch():
    config = {"schedule": "step", "warmup": 0.0, "drops": "0.5,0.75", "drop_factor": 0.1}
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [10, 15], gamma=0.1)
    assert rates(**config) == pytest.approx(followed(optimizer, theirs, 20))


def test_one_cycle_is_pytorchs():
    """Theirs peaks at step `pct_start * steps - 1`, ours at `warmup * steps`: the same with a step less."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=2.0,
        total_steps=21,
        pct_start=7 / 21,
        div_factor=25,
        final_div_factor=4,
        cycle_momentum=False,
    )
    ours = rates(20, schedule="onecycle", warmup=0.3, final_lr=0.01)
    assert ours == pytest.approx(followed(optimizer, theirs, 20))


def followed(optimizer, scheduler, num_steps):
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("schedule", ["cosine", "constant", "step", "onecycle"])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_every_rate_of_every_schedule_is_positive_and_at_most_the_peak(schedule, warmup, num_steps):
    found = rates(num_steps, schedule=schedule, warmup=warmup)
    assert all(0 < rate <= 2.0 * (1 + 1e-12) for rate in found)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_only_weights_are_decayed(name):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    net[0].bias.requires_grad_(False)
    groups = make_optimizer(net, TrainConfig(optimizer=name, weight_decay=0.3)).param_groups
    assert [(g["weight_decay"], len(g["params"])) for g in groups] == [(0.3, 1), (0.0, 2)]
