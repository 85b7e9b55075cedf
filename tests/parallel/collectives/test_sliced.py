"""Pieces of the canonical sum have the bits of the whole, however many workers there are; what each makes of its own reaches all."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from support.ranks import run_ranks
from ziggurat.parallel.collectives import gradients
from ziggurat.parallel.collectives.gradients import GradientSum
from ziggurat.parallel.collectives.sliced import SlicedSum
from ziggurat.parallel.collectives.wire import WIRES
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


def whole_sum(net, wire="fp32"):
    """Return the gradients of one worker, in the third of three steps."""
    sums = GradientSum(net.parameters(), Workers(), wire=WIRES[wire])
    sums.start(LEAVES, key=(7, 2))
    for index in range(LEAVES):
        with sums.leaf(index):
            loss(net, index).backward()
    sums.finish()
    return {name: parameter.grad for name, parameter in net.named_parameters()}


def sliced(workers, bucket_bytes, by_messages, tiers, wire="fp32"):
    """Return of two steps this worker's boxes with their gradients, and the parameters that all have shared."""
    if by_messages:
        gradients.share_memory = lambda workers, size: None  # in this process alone
    if tiers:
        workers.arrange(tiers)
    net = network()
    rows = {id(p): Rows.of(p, workers.size, WIRES[wire].block) for p in net.parameters()}
    names = {id(p): name for name, p in net.named_parameters()}
    sums = SlicedSum(net.parameters(), workers, lambda p: rows[id(p)].sizes(), bucket_bytes, wire=WIRES[wire])
    for step in range(3):
        sums.start(LEAVES, key=(7, step))
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


WAYS = [
    (2, 1 << 20, False, ()),
    (3, 300, True, ()),
    (4, 300, False, ()),
    (4, 300, True, (2, 2)),
    (4, 300, False, (2, 2)),
]


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("world", "bucket_bytes", "by_messages", "tiers", "wire"),
    [(*way, wire) for way in WAYS for wire in WIRES if wire != "bf16" or way is WAYS[3]],
)
def test_pieces_are_those_of_the_whole_sum(world, bucket_bytes, by_messages, tiers, wire):
    net = network()
    expected = whole_sum(net, wire)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    held = {name: torch.zeros(p.shape, dtype=torch.int64) for name, p in net.named_parameters()}
    for found, after in run_ranks(sliced, world, (bucket_bytes, by_messages, tiers, wire)):
        for name, (box, gradient) in found.items():
            assert torch.equal(gradient, box.of_tensor(expected[name])), name
            box.of_tensor(held[name]).add_(1)
        for name, value in after.items():
            assert torch.equal(value, before[name] + expected[name]), name
    assert all((count == 1).all() for count in held.values()), "each element is one worker's"


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@given(
    shape=st.lists(st.integers(0, 70), max_size=3).map(tuple), size=st.integers(1, 5), block=st.sampled_from([1, 2, 32])
)  # fmt: skip
def test_pieces_begin_with_blocks(memory_format, shape, size, block):
    """Also where the outermost dim in memory is not the first one; together they are all, and no worker has a block more than its share."""
    whole = torch.empty(shape, device="meta")
    if len(shape) == 3:
        whole = torch.empty((2, *shape), device="meta").to(memory_format=memory_format)
    rows = Rows.of(whole, size, block)
    sizes = rows.sizes()
    assert sum(sizes) == whole.numel()
    starts = list(itertools.accumulate(sizes, initial=0))
    assert all(start % block == 0 or start == whole.numel() for start in starts)
    row = max(1, whole.numel() // max(1, sum(rows.counts)))
    assert max(sizes) - min(sizes) <= 2 * math.lcm(row, block)


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
