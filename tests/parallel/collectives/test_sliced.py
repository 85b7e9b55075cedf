"""Pieces of the canonical sum have the bits of the whole, however many workers there are; what each makes of its own reaches all."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from support.ranks import run_ranks
from ziggurat.parallel.collectives import gradients
from ziggurat.parallel.collectives.gradients import GradientSum
from ziggurat.parallel.collectives.sliced import SlicedSum
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.rows import Rows

LEAVES = 5


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 3, groups=1), nn.Flatten(), nn.Linear(7 * 16, 3))
    net[1].weight.data = net[1].weight.data.contiguous(memory_format=torch.channels_last)
    net.scale = nn.Parameter(torch.tensor(2.0))
    net.shift = nn.Parameter(torch.zeros(4, 6).t().clone(memory_format=torch.preserve_format))
    net.none = nn.Parameter(torch.zeros(0, 3))
    return net


def loss(net, index):
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(index))
    return (net(images) * net.scale).square().sum() + (net.shift * index).sin().sum()


def whole_sum(net):
    sums = GradientSum(net.parameters(), Workers())
    sums.start(LEAVES)
    for index in range(LEAVES):
        with sums.leaf(index):
            loss(net, index).backward()
    sums.finish()
    return {name: parameter.grad for name, parameter in net.named_parameters()}


def sliced(workers, bucket_bytes, by_messages, tiers):
    """Return of two steps this worker's boxes with their gradients, and the parameters that all have shared."""
    if by_messages:
        gradients.share_memory = lambda workers, size: None  # in this process alone
    if tiers:
        workers.arrange(tiers)
    net = network()
    rows = {id(p): Rows.of(p, workers.size) for p in net.parameters()}
    names = {id(p): name for name, p in net.named_parameters()}
    sums = SlicedSum(net.parameters(), workers, lambda p: rows[id(p)].sizes(), bucket_bytes)
    for step in range(3):
        sums.start(LEAVES)
        for index in sums.mine:
            with sums.leaf(index):
                loss(net, index).backward()
        found = {}
        for parameter, gradient in sums.pieces():
            boxes = rows[id(parameter)].boxes()[workers.rank]
            for box in boxes:
                mine = box.of_tensor(parameter.detach())
                found[names[id(parameter)]] = box, gradient.as_strided(mine.shape, mine.stride()).clone()
                if step == 2:
                    mine.add_(found[names[id(parameter)]][1])
            assert boxes or not gradient.numel()
        if step == 2:
            sums.share()
        else:
            sums.leave()
    sums.close()
    return found, {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


@pytest.mark.parametrize(
    ("world", "bucket_bytes", "by_messages", "tiers"),
    [
        (2, 1 << 20, False, ()),
        (3, 300, True, ()),
        (4, 300, False, ()),
        (4, 300, True, (2, 2)),
        (4, 300, False, (2, 2)),
    ],
)
def test_pieces_are_those_of_the_whole_sum(world, bucket_bytes, by_messages, tiers):
    net = network()
    expected = whole_sum(net)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    held = {name: torch.zeros(p.shape, dtype=torch.int64) for name, p in net.named_parameters()}
    for found, after in run_ranks(sliced, world, (bucket_bytes, by_messages, tiers)):
        for name, (box, gradient) in found.items():
            assert torch.equal(gradient, box.of_tensor(expected[name])), name
            box.of_tensor(held[name]).add_(1)
        for name, value in after.items():
            assert torch.equal(value, before[name] + expected[name]), name
    assert all((count == 1).all() for count in held.values()), "each element is one worker's"


@pytest.mark.parametrize(
    ("shape", "size", "counts"),
    [
        ((5, 3), 2, (3, 2)),
        ((), 3, (1, 0, 0)),
        ((1, 8, 1), 3, (3, 3, 2)),
        ((1,), 2, (1, 0)),
        ((0, 3), 2, (2, 1)),
    ],
)
def test_rows_are_even(shape, size, counts):
    rows = Rows.of(torch.empty(shape), size)
    assert rows.counts == counts
    assert sum(rows.sizes()) == torch.Size(shape).numel()


def test_rows_follow_memory():
    assert Rows.of(torch.empty(4, 6).t(), 2) == Rows((6, 4), 1, (2, 2))
    last = torch.empty(4, 6, 3, 3).contiguous(memory_format=torch.channels_last)
    assert Rows.of(last, 2).dim == 0
