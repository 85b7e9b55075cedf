"""Gradients by the canonical sum: those of one big batch, and the same bits on any number of workers."""

import math

import pytest
import torch
from torch import nn

from support.ranks import run_ranks
from ziggurat.parallel.collectives.canonical import partition
from ziggurat.parallel.collectives.gradients import GradientSum, _bucket_groups
from ziggurat.parallel.collectives.hierarchy import even_slices, slices
from ziggurat.parallel.collectives.pieces import PartSum
from ziggurat.parallel.collectives.workers import Workers


class Net(nn.Module):
    """Convolutions used twice, a parameter that is never used, and a channels-last weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.unused = nn.Parameter(torch.ones(5))
        self.last = nn.Linear(8, 2)

    def forward(self, images):
        level = self.first(images).relu()
        level = self.shared(self.shared(level).relu())
        return self.last(level.mean(dim=(2, 3)))


def make_net(dtype=torch.float32):
    torch.manual_seed(0)
    return Net().to(dtype).to(memory_format=torch.channels_last)


def images_of(leaf, dtype=torch.float32):
    return torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(leaf)).to(dtype)


def summed_gradients(workers, num_leaves, bucket_bytes, shared=True, dtype=torch.float32):
    net = make_net(dtype)
    gradients = GradientSum(net.parameters(), workers, bucket_bytes)
    if not shared:
        gradients.shared_roots = None
    for _ in range(2):  # a second step must not see the first one's gradients
        gradients.start(num_leaves)
        for leaf in partition(num_leaves, workers.size)[workers.rank]:
            with gradients.leaf(leaf):
                net(images_of(leaf, dtype)).square().sum().backward()
        gradients.finish()
    strides = [(p.grad.stride(), p.stride()) for p in net.parameters()]
    gradients.close()
    return {name: p.grad.numpy().copy() for name, p in net.named_parameters()}, strides


@pytest.mark.sampled(6)
@pytest.mark.parametrize("num_leaves", [1, 4, 5, 8])
@pytest.mark.parametrize("bucket_bytes", [1, 500, 1 << 20])
@pytest.mark.parametrize("shared", [True, False])
def test_the_same_bits_on_any_number_of_workers(num_leaves, bucket_bytes, shared):
    expected, _ = summed_gradients(Workers(), num_leaves, bucket_bytes)
    for world in (2, 3):
        for found, _ in run_ranks(summed_gradients, world, (num_leaves, bucket_bytes, shared)):
            for name, value in expected.items():
                assert (found[name] == value).all(), (name, world)


def summed_by_tiers(workers, tiers, shared):
    workers.arrange(tiers)
    found = {}
    for num_leaves in (1, 2, 3, 5, 7, 8, 11, 13):
        gradients, strides = summed_gradients(workers, num_leaves, 500, shared)
        found[num_leaves] = gradients
        assert all(gradient == parameter for gradient, parameter in strides)
    return found


@pytest.mark.sampled(1)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("tiers", [(2, 2), (3, 2), (2, 2, 2), (4, 2), (1, 2, 1, 3)])
def test_the_same_bits_by_any_tiers(tiers, shared):
    """Even and uneven parts, workers without any; what a machine has is one subtree, or several."""
    expected = summed_by_tiers(Workers(), (), False)
    for found in run_ranks(summed_by_tiers, math.prod(tiers), (tiers, shared)):
        for num_leaves, gradients in expected.items():
            for name, value in gradients.items():
                assert (found[num_leaves][name] == value).all(), (num_leaves, name)


def sent_in_a_step(workers, tiers, shared):
    """Return what a step of one bucket sends, by tier."""
    workers.arrange(tiers)
    net = make_net()
    gradients = GradientSum(net.parameters(), workers)
    if not shared:
        gradients.shared_roots = None
    for _ in range(2):
        gradients.start(8)
        before = [group.sent.copy() for group in workers.tiers]
        for leaf in gradients.mine:
            with gradients.leaf(leaf):
                net(images_of(leaf)).square().sum().backward()
        gradients.finish()
    gradients.close()
    (bucket,) = gradients.buckets
    return bucket.length * 4, [group.sent - sent for group, sent in zip(workers.tiers, before, strict=True)]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("tiers", [(2,), (4,), (2, 2), (8,), (4, 2), (2, 2, 2)])
def test_messages_grow_with_the_sum_of_the_tiers_and_bytes_shrink_outwards(tiers):
    for num_bytes, sent in run_ranks(sent_in_a_step, math.prod(tiers), (tiers, False)):
        assert sum(tier.messages for tier in sent) == 2 * sum(size - 1 for size in tiers)
        inner = 1  # workers that have met before: each holds so small a share
        for size, tier in zip(tiers, sent, strict=True):
            expected = 2 * num_bytes * (size - 1) / size / inner
            assert expected <= tier.bytes < expected + 8 * 4 * size  # slices are rounded up to whole elements
            assert tier.shared_bytes == 0
            inner *= size


def test_what_goes_through_shared_memory_is_no_message():
    for num_bytes, (machine, between) in run_ranks(sent_in_a_step, 4, ((2, 2), True)):
        assert machine.bytes == 0
        assert machine.messages == 2, "barriers"
        assert num_bytes * 1.5 <= machine.shared_bytes < num_bytes * 1.5 + 16, (
            "all of the root, half of the sum"
        )
        assert num_bytes / 2 <= between.bytes < num_bytes / 2 + 16


def summed_parts(workers, num_leaves, num_parts, shared, ends_with_slices=False):
    """Of each microbatch every worker of a group has a part, in another scale; return all sums, and what was added up over parts."""
    place, part = divmod(workers.rank, num_parts)
    data = workers.subgroup(range(part, workers.size, num_parts))
    parts = PartSum(workers.subgroup(range(place * num_parts, (place + 1) * num_parts)))
    parts.is_mapped = not shared
    added = []

    def add_parts(mine):
        added.append(mine.numel())
        return parts(mine)

    net = make_net()
    gradients = GradientSum(net.parameters(), data, 500, add_parts)
    if not shared:
        gradients.shared_roots = None
    found = []
    for _ in range(2):
        gradients.start(num_leaves)
        if ends_with_slices:
            gradients.stop_at_slices()
        for leaf in gradients.mine:
            with gradients.leaf(leaf):
                (net(images_of(leaf)) * 3.7 ** (9 * part)).square().sum().backward()
        if ends_with_slices:
            found = [mine.numpy().copy() for mine in gradients.finish_slices()]
        else:
            gradients.finish()
            found = [torch.cat([p.grad.flatten() for p in net.parameters()]).numpy()]
    gradients.close()
    return found, added, [bucket.length for bucket in gradients.buckets]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("shared", [True, False])
def test_parts_are_added_on_slices_with_the_same_bits_on_any_number_of_workers(shared):
    (expected,), added, lengths = run_ranks(summed_parts, 3, (3, 3, True))[0]
    assert added == lengths * 2, "one worker of the data axis has the whole of each bucket"
    for world in (6, 9):
        sizes = [even_slices(length, world // 3)[0] for length in lengths]
        for (found,), added, _ in run_ranks(summed_parts, world, (3, 3, shared)):
            assert (found == expected).all()
            assert added == sizes * 2


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("world", [2, 4])
def test_a_step_may_end_with_the_slices(world, shared):
    whole = run_ranks(summed_parts, 2, (5, 2, True, True))[0][0]
    for rank, (found, _, lengths) in enumerate(run_ranks(summed_parts, world, (5, 2, shared, True))):
        for mine, all_, length in zip(found, whole, lengths, strict=True):
            place = slices([world // 2], even_slices(length, world // 2))[rank // 2]
            expected = all_[place.start : place.stop]
            assert (mine[: len(expected)] == expected).all()


def test_the_sum_is_the_gradient_of_the_whole_batch():
    found, strides = summed_gradients(Workers(), 5, 500, dtype=torch.float64)
    net = make_net(torch.float64)
    net(torch.cat([images_of(leaf, torch.float64) for leaf in range(5)])).square().sum().backward()
    for name, parameter in net.named_parameters():
        expected = torch.zeros(5) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(torch.from_numpy(found[name]), expected.double(), rtol=1e-10, atol=1e-10)
    assert all(gradient == parameter for gradient, parameter in strides), "layout of the parameter is kept"


def test_buckets_hold_every_parameter_once_and_only_one_type():
    parameters = [
        nn.Parameter(torch.zeros(n, dtype=t)) for n in (3, 200, 5) for t in (torch.float32, torch.float64)
    ]
    groups = _bucket_groups(parameters, 64)
    assert [id(p) for group in groups for p in group] == [id(p) for p in reversed(parameters)]
    assert all(len({p.dtype for p in group}) == 1 for group in groups)


def test_two_gradients_in_one_backward_pass_raise():
    net = nn.Linear(2, 2, bias=False)
    gradients = GradientSum(net.parameters(), Workers())
    gradients.start(1)
    with pytest.raises(RuntimeError, match="use_reentrant=False"), gradients.leaf(0):  # noqa: PT012
        net(torch.ones(1, 2)).sum().backward()
        gradients.buckets[0].taken = {0}
        net(torch.ones(1, 2)).sum().backward()
    gradients.close()


class Entangled(nn.Module):
    """Autograd gives the first two one memory, the third a part of a larger one, the fourth another layout."""

    def __init__(self):
        super().__init__()
        self.row, self.column = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4, 1))
        self.part, self.turned = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 3))

    def forward(self, scale):
        total = self.row.view(2, 2) + self.column.view(2, 2)
        joined = torch.cat([self.part, torch.ones(5)])
        return scale * (
            total.square().sum() + joined.square().sum() + (self.turned.t() * torch.ones(3, 2)).square().sum()
        )


def test_gradients_that_share_memory_are_added_apart():
    net, fresh = Entangled(), Entangled()
    gradients = GradientSum(net.parameters(), Workers())
    gradients.start(3)
    for leaf in range(3):
        with gradients.leaf(leaf):
            net(leaf + 1.0).backward()
    gradients.finish()
    expected = torch.autograd.grad(fresh(6.0), list(fresh.parameters()))
    for parameter, true in zip(net.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, true)
        assert parameter.grad.stride() == parameter.stride()


def sign_of_a_zero(workers):
    """The first microbatch has a gradient of -0, the second none at all."""
    net = nn.Linear(2, 1, bias=False)
    gradients = GradientSum(net.parameters(), workers)
    gradients.start(2)
    for leaf in gradients.mine:
        with gradients.leaf(leaf):
            if leaf == 0:
                (net.weight * -0.0).sum().backward()
    gradients.finish()
    gradients.close()
    return net.weight.grad.signbit().tolist()


def test_a_zero_has_one_sign_on_any_number_of_workers():
    assert sign_of_a_zero(Workers()) == [[False, False]]
    assert run_ranks(sign_of_a_zero, 2) == [[[False, False]]] * 2


def test_every_second_leaf_is_added_where_autograd_makes_it():
    """Two microbatches need the memory of one gradient."""
    net = make_net()
    gradients = GradientSum(net.parameters(), Workers())
    gradients.start(3)
    for leaf in range(3):
        with gradients.leaf(leaf):
            net(images_of(leaf)).square().sum().backward()
        if leaf == 0:
            place = gradients.buckets[0].sum.roots[0, 1].tensors[0].data_ptr()
        if leaf == 1:
            assert gradients.buckets[0].sum.roots[0, 2].tensors[0].data_ptr() == place
    assert all(parameter.grad is None for parameter in net.parameters()), "taken"
    gradients.finish()
    gradients.close()
    alone = [make_net() for _ in range(3)]
    for leaf, one in enumerate(alone):
        one(images_of(leaf)).square().sum().backward()
    assert torch.equal(
        net.first.weight.grad,
        (alone[0].first.weight.grad + alone[1].first.weight.grad) + alone[2].first.weight.grad,
    )


def test_closed_hooks_leave_autograd_alone():
    net = nn.Linear(2, 1)
    GradientSum(net.parameters(), Workers()).close()
    net(torch.ones(1, 2)).sum().backward()
    assert net.weight.grad.tolist() == [[1, 1]]
