"""Gradients that travel narrow: the formats by themselves, and sums with the same bits and fewer bytes on any number of workers."""

import math
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from support.ranks import run_ranks
from ziggurat.parallel.collectives.canonical import Span, children, consecutive, partition
from ziggurat.parallel.collectives.gradients import GradientSum
from ziggurat.parallel.collectives.pieces import PartSum
from ziggurat.parallel.collectives.sliced import SlicedSum
from ziggurat.parallel.collectives.wire import BLOCK, WIRES, Rounding, chances, key_of
from ziggurat.parallel.collectives.workers import Workers

NARROW = ("bf16", "int8")
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def rounded(name, values, key=0):
    """Return values rounded to a format, as a node of a bucket with one parameter."""
    wire, node = WIRES[name], values.clone()
    states = chances([0], [len(node) // BLOCK], len(node) // BLOCK) if wire.block > 1 else None
    Rounding(wire, states, (0, key), 0).node(Span(0, 1), node)
    return node


def blocks_of(numbers):
    """Return numbers as whole blocks, the last one filled with zeros."""
    return torch.tensor([*numbers, *[0.0] * (-len(numbers) % BLOCK)])


# -- the formats ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NARROW)
@given(st.lists(FLOATS, min_size=1, max_size=70), st.integers(0, 3))
def test_what_has_been_rounded_travels_as_it_is_and_is_not_rounded_again(name, numbers, key):
    node = rounded(name, blocks_of(numbers), key)
    wire = WIRES[name]
    message = wire.pack(node)
    assert message.dtype == torch.uint8
    assert message.numel() == wire.size(len(node))
    torch.testing.assert_close(wire.unpack(message), node, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(rounded(name, node, key + 1), node, rtol=0, atol=0, equal_nan=True)


@given(st.lists(FLOATS, min_size=1, max_size=70), st.integers(0, 3))
def test_a_block_is_rounded_to_one_of_two_neighbouring_steps_of_127ths_of_its_largest(numbers, key):
    values = blocks_of(numbers)
    for block, node in zip(
        values.double().view(-1, BLOCK), rounded("int8", values, key).double().view(-1, BLOCK), strict=True
    ):
        largest = float(block.abs().max())
        if largest > 127 * 2.0**121:
            assert node.isnan().all()
            continue
        step = max(2.0**-126, 2.0 ** math.ceil(math.log2(largest / 127)) if largest else 0)
        while step / 2 * 127 >= largest and step > 2.0**-126:  # the logarithm itself was rounded
            step /= 2
        assert ((node - block).abs() < step).all()
        assert (node / step == (node / step).round()).all()
        assert (node.abs() <= 127 * step).all()


@given(st.lists(FLOATS, min_size=1, max_size=40))
def test_bf16_is_rounded_to_nearest_with_ties_to_even(numbers):
    values = blocks_of(numbers)

    def by_hand(number):
        bits = struct.unpack("<I", struct.pack("<f", number))[0]
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
        return struct.unpack("<f", struct.pack("<I", bits))[0]

    assert rounded("bf16", values).tolist() == [by_hand(number) for number in values.tolist()]


def test_rounding_by_chance_is_unbiased_and_differs_by_node_and_place():
    values = torch.linspace(-1, 1, BLOCK).repeat(1 << 11)
    once, again, other = (rounded("int8", values, key) for key in (0, 0, 1))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert not torch.equal(once[:BLOCK], once[BLOCK : 2 * BLOCK])
    step = 2.0**-6  # 127 steps of 2 ** -7 do not reach 1
    error = (once - values).view(-1, BLOCK).mean(0) / step
    # a mean of 2048 has a standard deviation of 1/90 of a step at most
    assert error.abs().max() < 5 / 90
    assert abs(float(error.mean())) < 5 / 90 / math.sqrt(BLOCK)


def test_the_generator_is_splitmix64():
    """Uniform numbers as the published generator gives them, four of its outputs' 64 bits."""
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15
    numbers, node = (5, 9), key_of(0, 7, 2, 4, 0)
    values = torch.full((3 * BLOCK,), 0.5).view(3, BLOCK)
    values[:, 0] = 127.0
    flat = values.flatten()
    Rounding(WIRES["int8"], chances(numbers, (2, 1), 3), (0, 7), 0).node(Span(2, 4), flat)
    for block, found in enumerate(flat.view(3, BLOCK)):
        number, place = (numbers[0], block) if block < 2 else (numbers[1], 0)
        ups = []
        for count in range(8):
            z = (key_of(number) + node + golden * (8 * place + count)) & mask
            z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
            for piece in struct.unpack("<4h", struct.pack("<Q", z ^ z >> 31)):
                ups.append(float(0.5 + piece / 65536 + 0.5 + 2**-17 >= 1))
        assert found.tolist()[1:] == ups[1:]


def test_zeros_subnormal_numbers_and_what_is_not_finite():
    tiny, huge = 2.0**-149, 3.4e38
    assert rounded("int8", torch.zeros(BLOCK)).tolist() == [0.0] * BLOCK
    subnormal = torch.cat([rounded("int8", torch.full((BLOCK,), 2.0**-128), key) for key in range(64)])
    assert set(subnormal.tolist()) == {0.0, 2.0**-126}
    assert 0.2 < float((subnormal > 0).float().mean()) < 0.3, "one in four"
    assert rounded("int8", torch.full((BLOCK,), tiny)).abs().max() <= 2.0**-126
    assert rounded("int8", torch.full((BLOCK,), 127 * 2.0**121)).tolist() == [127 * 2.0**121] * BLOCK
    for bad in (math.inf, -math.inf, math.nan, huge, -huge):
        node = rounded("int8", torch.tensor([1.0] * BLOCK + [bad] + [1.0] * (2 * BLOCK - 1)))
        assert node.isnan().tolist() == [False] * BLOCK + [True] * BLOCK + [False] * BLOCK
        travelled = WIRES["int8"].unpack(WIRES["int8"].pack(node))
        torch.testing.assert_close(travelled, node, rtol=0, atol=0, equal_nan=True)
    kept = rounded("bf16", torch.tensor([math.inf, -math.inf, math.nan, tiny, -0.0]))
    assert kept[:2].tolist() == [math.inf, -math.inf]
    assert kept[2].isnan()
    assert kept[3:].tolist() == [0.0, 0.0]


# -- sums -------------------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Parameters of fewer numbers than a block, of several blocks, in channels-last order, and one that is never used."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 17, 3, padding=1)
        self.unused = nn.Parameter(torch.ones(5))
        self.last = nn.Linear(17, 2)

    def forward(self, images):
        return self.last(self.second(self.first(images).relu()).relu().mean(dim=(2, 3)))


def make_net():
    torch.manual_seed(0)
    return Net().to(memory_format=torch.channels_last)


def images_of(leaf):
    return torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(leaf))


def take(gradients, net, num_leaves, parts, step, part=0):
    gradients.start(num_leaves, parts, (11, step))
    for leaf in gradients.mine:
        with gradients.leaf(leaf):
            (net(images_of(leaf)) * 3.7**part).square().sum().backward()


def summed(workers, wire, tiers, shared, cases):
    """Return the gradient of each case, a number of leaves and how many each worker takes, and what was sent."""
    if tiers:
        workers.arrange(tiers)
    net = make_net()
    gradients = GradientSum(net.parameters(), workers, 3000, wire=WIRES[wire])
    if not shared:
        gradients.shared_roots = None
    found = []
    for step, (num_leaves, counts) in enumerate(cases):
        parts = None if counts is None or workers.size == 1 else consecutive(counts)
        take(gradients, net, num_leaves, parts, step)
        gradients.finish()
        found.append({name: p.grad.numpy().copy() for name, p in net.named_parameters()})
        assert all(p.grad.stride() == p.stride() for p in net.parameters())
    gradients.close()
    return found


LEAVES = (1, 2, 5, 8)
UNEVEN = {2: (7, 1), 3: (0, 5, 3), 4: (3, 0, 3, 2)}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("wire", NARROW)
@pytest.mark.parametrize("tiers", [(), (2, 2), (3, 2)])
def test_the_same_bits_on_any_number_of_workers_by_any_tiers(wire, tiers, shared):
    for world in [math.prod(tiers)] if tiers else [2, 3]:
        cases = [(num, None) for num in LEAVES] + ([(8, UNEVEN[world])] if world in UNEVEN else [])
        expected = summed(Workers(), wire, (), False, cases)
        for found in run_ranks(summed, world, (wire, tiers, shared, cases)):
            for one, true in zip(found, expected, strict=True):
                assert one.keys() == true.keys()
                for name, value in true.items():
                    assert (one[name] == value).all(), (world, name)


@pytest.mark.parametrize("wire", NARROW)
def test_the_sum_is_that_of_the_tree_whose_nodes_are_rounded(wire):
    """Against the definition, with the leaves of autograd and each parameter by itself."""
    (found,) = summed(Workers(), wire, (), False, [(5, None)])
    alone = []
    for leaf in range(5):
        net = make_net()
        net(images_of(leaf)).square().sum().backward()
        alone.append(net)
    wires = WIRES[wire]
    for number, (name, parameter) in enumerate(make_net().named_parameters()):
        order = (0, 2, 3, 1) if parameter.dim() == 4 else tuple(range(parameter.dim()))

        def node(span, name=name, number=number, order=order):
            if span.stop - span.start == 1:
                grad = dict(alone[span.start].named_parameters())[name].grad
                total = torch.zeros(5) if grad is None else grad.permute(order).flatten()
            else:
                left, right = children(span)
                total = node(left) + node(right)
            blocks = -(-len(total) // BLOCK)
            full = torch.cat([total, torch.zeros(blocks * BLOCK - len(total))])
            states = chances([number], [blocks], blocks) if wires.block > 1 else None
            Rounding(wires, states, (11, 0), 0).node(span, full)
            return full[: len(total)]

        expected = node(Span(0, 5)).numpy()
        assert (torch.from_numpy(found[name]).permute(order).flatten().numpy() == expected).all(), name


def with_parts(workers, wire, num_parts, sliced):
    """Every worker of a group has another part of each microbatch; sums of gradients, or pieces of them under a sharded optimizer."""
    place, part = divmod(workers.rank, num_parts)
    data = workers.subgroup(range(part, workers.size, num_parts))
    parts = PartSum(workers.subgroup(range(place * num_parts, (place + 1) * num_parts)))
    net = make_net()
    arguments = {"parts": parts, "wire": WIRES[wire], "part": part}
    if not sliced:
        gradients = GradientSum(net.parameters(), data, 3000, **arguments)
        take(gradients, net, 5, None, 0, part)
        gradients.finish()
        found = {name: p.grad.flatten().numpy().copy() for name, p in net.named_parameters()}
        gradients.close()
        return found

    def sizes(parameter):
        """Return pieces of whole blocks, of which the last one may not be full."""
        blocks = torch.arange(parameter.numel()).split(WIRES[wire].block)
        return [sum(map(len, blocks[part.start : part.stop])) for part in partition(len(blocks), data.size)]

    gradients = SlicedSum(net.parameters(), data, sizes, 3000, **arguments)
    take(gradients, net, 5, None, 0, part)
    for parameter, piece in gradients.pieces():
        flat = parameter.data.as_strided((parameter.numel(),), (1,))
        flat.split(sizes(parameter))[data.rank].copy_(piece)
    gradients.share()  # the gradient itself: float32, which no wire may change
    gradients.close()
    return {name: p.detach().flatten().numpy().copy() for name, p in net.named_parameters()}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("wire", NARROW)
def test_parts_are_rounded_apart_and_together_and_a_sharded_optimizer_has_the_same_bits(wire):
    expected = run_ranks(with_parts, 2, (wire, 2, False))
    assert all((expected[0][name] == value).all() for name, value in expected[1].items())
    for world, sliced in [(4, False), (6, False), (4, True), (6, True)]:
        for found in run_ranks(with_parts, world, (wire, 2, sliced)):
            assert all((found[name] == value).all() for name, value in expected[0].items()), (world, sliced)


def sent(workers, wire, sliced=False):
    net = nn.Linear(256, 256)
    gradients = GradientSum(net.parameters(), workers, wire=WIRES[wire])
    if sliced:
        gradients.close()

        def sizes(parameter):
            return [parameter.numel() // workers.size] * workers.size

        gradients = SlicedSum(net.parameters(), workers, sizes, wire=WIRES[wire])
    gradients.shared_roots = None
    before = workers.sent.copy()
    gradients.start(8)
    for leaf in gradients.mine:
        with gradients.leaf(leaf):
            net(torch.full((1, 256), leaf + 1.0)).square().sum().backward()
    if isinstance(gradients, SlicedSum):
        assert sum(piece.numel() for _, piece in gradients.pieces()) == 256 * 257 // workers.size
        gradients.share()
    else:
        gradients.finish()
    gradients.close()
    return (workers.sent - before).bytes


@pytest.mark.parametrize(("wire", "share"), [("bf16", 1 / 2), ("int8", 33 / 128)])
def test_bytes_are_a_half_and_about_a_quarter(wire, share):
    whole = run_ranks(sent, 4, ("fp32",))
    for narrow, wide in zip(run_ranks(sent, 4, (wire,)), whole, strict=True):
        assert narrow == wide * share


@pytest.mark.parametrize(("wire", "share"), [("bf16", 1 / 2), ("int8", 33 / 128)])
def test_of_a_sharded_optimizer_the_half_that_carries_gradients_is_narrow(wire, share):
    """The other half carries weights."""
    whole = run_ranks(sent, 4, ("fp32", True))
    assert whole == run_ranks(sent, 4, ("fp32",)), "as many bytes as without it"
    for narrow, wide in zip(run_ranks(sent, 4, (wire, True)), whole, strict=True):
        assert narrow == wide * (share + 1) / 2


def test_what_no_wire_can_carry_is_refused():
    wide = nn.Linear(2, 2).double()
    with pytest.raises(ValueError, match="travel as bf16 where they are float32: got float64"):
        GradientSum(wide.parameters(), Workers(), wire=WIRES["bf16"])
    halves = nn.Linear(4, 8, bias=False).parameters()
    with pytest.raises(ValueError, match="must not cut blocks of 32 neighbours"):
        SlicedSum(halves, Workers(), lambda parameter: [16, 16], wire=WIRES["int8"])
