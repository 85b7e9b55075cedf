"""Choosing stages, against trying every cut; and measuring pieces of a network."""

import itertools
import random
import time

import pytest
import torch

from support.local_stages import Skips
from ziggurat.errors import UserError
from ziggurat.parallel.graph.stages import find_places
from ziggurat.parallel.graph.trace import Tracer, spec_of
from ziggurat.parallel.pipeline.balance import Unit, balance, cost_of, units_of
from ziggurat.parallel.pipeline.recompute import share_again
from ziggurat.parallel.pipeline.schedules import make_schedule
from ziggurat.strategies.costs.measure import measure_calls, state_bytes


def measure(model, tracer, spec, **named):
    """Return the pieces of a network, measured."""
    graph = tracer.trace(spec)
    return units_of(graph, measure_calls(model, graph, spec, tracer.device, **named), state_bytes(model))


def every_cut(units, num_stages):
    """Yield each cut with its stages' costs."""
    for firsts in itertools.combinations(range(1, len(units)), num_stages - 1):
        bounds = [0, *firsts, len(units)]
        yield [cost_of(units[a:b]) for a, b in itertools.pairwise(bounds)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num_stages", [1, 2, 3, 4])
def test_the_slowest_stage_is_as_fast_as_any_cut_makes_it(seed, num_stages):
    draw = random.Random(seed)
    units = [
        Unit(f"l{n}", draw.randint(1, 9), draw.randint(1, 9), ((f"w{n % 5}", draw.randint(1, 9)),), draw.randint(1, 9))
        for n in range(7)
    ]  # fmt: skip
    bound = 40 if seed % 2 else 0

    def memory(stage, cost):
        return cost.state_bytes + cost.kept_bytes * (num_stages - stage)

    fitting = [
        (max(c.seconds for c in costs), sum(c.crossing_bytes for c in costs[1:]))
        for costs in every_cut(units, num_stages)
        if not bound or all(memory(stage, cost) <= bound for stage, cost in enumerate(costs))
    ]
    if not fitting:
        with pytest.raises(UserError, match=r"keeps every stage within plan\.max_bytes: got 40"):
            balance(units, num_stages, memory, bound)
        return
    cut = balance(units, num_stages, memory, bound)
    assert cut == sorted(cut)
    firsts = [0, *(int(name[1:]) for name in cut), len(units)]
    costs = [cost_of(units[a:b]) for a, b in itertools.pairwise(firsts)]
    assert (max(c.seconds for c in costs), sum(c.crossing_bytes for c in costs[1:])) == min(fitting)


def test_a_network_of_many_layers_is_cut_at_once():
    """HRNet has 1286 pieces; looking at every pair of cuts took two minutes."""
    draw = random.Random(0)
    units = [Unit(f"l{n:04}", draw.random(), states=((f"w{n}", 1),), crossing_bytes=1) for n in range(1300)]
    total = sum(unit.seconds for unit in units)
    begin = time.perf_counter()
    for num_stages in (2, 8):
        starts = [0, *(int(name[1:]) for name in balance(units, num_stages)), len(units)]
        slowest = max(cost_of(units[a:b]).seconds for a, b in itertools.pairwise(starts))
        assert total / num_stages <= slowest <= total / num_stages + 1
    assert time.perf_counter() - begin < 10


def test_what_is_computed_again_counts_twice_where_it_is():
    """Four equal layers; under 1f1b the first stage goes forward twice: 3 a layer and 2."""
    units = [Unit(name, 2.0, forward_seconds=1.0) for name in ("", "a", "b", "c", "d")]
    orders = make_schedule("1f1b", 2, 4)
    assert [share_again(orders, stage, 4) for stage in (0, 1)] == [1.0, 0.0]

    def seconds(stage, cost):
        return cost.seconds + share_again(orders, stage, 4) * cost.forward_seconds

    assert balance(units, 2, seconds=seconds) == ["b"]  # 6 and 6
    assert balance([*units, Unit("e", 2.0)], 2) == ["c"]
    assert [share_again(make_schedule("gpipe", 2, count), 1, count) for count in (1, 4)] == [0.0, 1.0]


def test_too_many_stages():
    with pytest.raises(UserError, match="cut into 2 stages at most: got 3; lower pp"):
        balance([Unit("", 1.0), Unit("a", 1.0)], 3)


def test_pieces_are_measured_and_nothing_is_left_behind():
    model = Skips().double().train()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state = torch.get_rng_state()
    spec = spec_of(torch.zeros(2, 3, 16, 16, dtype=torch.float64))
    tracer = Tracer(model)
    units = measure(model, tracer, spec)
    assert [unit.name for unit in units][:4] == ["", "stem.1", "act", "shared"]
    assert all(unit.seconds > 0 for unit in units)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers())
    assert all(p.grad is None for p in model.parameters())
    total = cost_of(units)
    assert total.state_bytes == sum(
        t.numel() * t.element_size() for t in model.state_dict(keep_vars=True).values()
    ) - (
        model.shared.weight.numel() * 8  # under two names in the state dict
    )
    by_name = {unit.name: unit for unit in units}
    assert by_name["act"].crossing_bytes == 2 * 4 * 16 * 16 * 8  # what the norm gives, and nothing else
    assert by_name["shared"].kept_bytes > 0
    graph = tracer.trace(spec)
    assert len(find_places(graph, balance(units, 3))) == 2


def kept_of_a_plain_pass(model, images):
    """Return the bytes that autograd keeps: of each memory once, weights and images left out."""
    kept = {}

    def note(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = model(images)
    kept.pop(images.untyped_storage()._cdata, None)
    del outputs
    return sum(kept.values())


def test_what_several_pieces_keep_counts_once():
    torch.manual_seed(0)
    layers = [
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(inplace=True),
        torch.nn.Conv2d(4, 4, 3),
    ]
    model = torch.nn.Sequential(*layers, torch.nn.BatchNorm2d(4), torch.nn.ReLU()).train()
    images = torch.randn(2, 3, 16, 16)
    units = measure(model, Tracer(model), spec_of(images))
    assert len(units) == 6
    assert sum(unit.kept_bytes for unit in units) == kept_of_a_plain_pass(model, images)
    # a stage that starts within keeps what it has received besides
    assert cost_of(units[3:]).kept_bytes == sum(unit.kept_bytes for unit in units[3:]) + 2 * 4 * 14 * 14 * 4


class Slow(torch.nn.Module):
    """A layer that takes a certain time forward and back."""

    def __init__(self, forward_seconds, backward_seconds):
        super().__init__()
        self.seconds = forward_seconds, backward_seconds
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, images):
        return _Sleep.apply(images * self.weight, *self.seconds)


class _Sleep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images, forward_seconds, backward_seconds):
        ctx.seconds = backward_seconds
        if not images.is_meta:
            time.sleep(forward_seconds)
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(ctx.seconds)
        return gradient, None, None


def test_forward_and_backward_are_given_to_the_piece_that_takes_them():
    seconds = [(0.004, 0.02), (0.03, 0.001), (0.0, 0.06)]
    model = torch.nn.Sequential(*(Slow(*one) for one in seconds))
    units = measure(model, Tracer(model), spec_of(torch.zeros(1, 3, 8, 8)), runs=3)
    assert [unit.name for unit in units] == ["", "1", "2"]
    for unit, one in zip(units, seconds, strict=True):
        assert sum(one) <= unit.seconds <= sum(one) + 0.035, (unit, one)
