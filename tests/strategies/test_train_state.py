"""A run's state: one owner, one naming."""

import pytest
import torch
from torch import nn

from ziggurat.strategies.state import TrainState, owner_of


def state_of(net, decay=0.0):
    return TrainState.start(net, torch.optim.AdamW(net.parameters()), decay)


def test_the_average_forgets_the_start_and_then_decays():
    net = nn.BatchNorm1d(1)
    state = state_of(net, decay=0.5)
    net.weight.data.fill_(11.0)
    net.num_batches_tracked.fill_(4)
    state.update_average()  # decay 0.1
    assert state.average.weight.item() == pytest.approx(0.1 * 1 + 0.9 * 11)
    assert state.average.num_batches_tracked.item() == 4
    state.step = 1000
    state.update_average()  # decay 0.5
    assert state.average.weight.item() == pytest.approx(0.5 * 10 + 0.5 * 11)
    assert not state.average.weight.requires_grad


def test_without_decay_the_average_is_the_model():
    net = nn.Linear(1, 1)
    state = state_of(net)
    state.update_average()
    assert state.average is net
    assert state.models == (net,)


def test_every_tensor_has_one_name():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    state = state_of(net, decay=0.9)
    net(torch.ones(3, 2)).sum().backward()
    state.optimizer.step()
    kinds = {kind: set() for kind in ("model", "average", "optimizer")}
    for name, tensor in state.tensors().items():
        kinds[name.partition(".")[0]].add(owner_of(name))
        assert tensor.numel()
    assert kinds["model"] == kinds["average"] == net.state_dict().keys()
    assert kinds["optimizer"] == dict(net.named_parameters()).keys()


def test_what_a_step_counts_is_counted_when_it_is_done():
    state = state_of(nn.Linear(1, 1))
    state.pending["skipped_steps"] += 1
    assert (state.counted("skipped_steps"), state.counters["skipped_steps"], state.step) == (1, 0, 0)
    state.complete()
    assert (state.counted("skipped_steps"), state.counters["skipped_steps"], state.step) == (1, 1, 1)
