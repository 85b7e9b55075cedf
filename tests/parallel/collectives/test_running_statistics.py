"""Running statistics: PyTorch's own sequence of updates, and the same bits on any number of workers."""

import copy

import pytest
import torch
from torch import nn

from support.ranks import run_ranks
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.canonical import partition
from ziggurat.parallel.collectives.running_statistics import RunningStatistics
from ziggurat.parallel.collectives.workers import Workers


def make_net(momentum=0.1):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, momentum=momentum),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        nn.BatchNorm2d(5),
    ).train()


def images_of(leaf):
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(leaf)) * (leaf + 1)


def canonical_buffers(workers, num_leaves, momentum=0.1, steps=2):
    net = make_net(momentum)
    statistics = RunningStatistics(net, workers)
    for step in range(steps):
        statistics.start()
        for leaf in partition(num_leaves, workers.size)[workers.rank]:
            net(images_of(leaf + step))
            net(images_of(leaf + step))  # repeated, as activation checkpointing does
            statistics.take_leaf()
        statistics.finish(num_leaves)
    assert [layer.momentum for layer in statistics.layers] == [momentum, 0.1]
    return {name: value.numpy() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("momentum", [0.1, None])
def test_one_worker_does_what_pytorch_does(momentum):
    net = make_net(momentum)
    for step in range(2):
        for leaf in range(5):
            net(images_of(leaf + step))
    found = canonical_buffers(Workers(), 5, momentum)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(torch.from_numpy(found[name]), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("kind", ["BatchNorm", "InstanceNorm", "LazyBatchNorm", "LazyInstanceNorm"])
@pytest.mark.parametrize("num_dims", [1, 2, 3])
def test_every_norm_does_what_pytorch_does(kind, num_dims, momentum):
    torch.manual_seed(0)
    given = {} if kind.startswith("Lazy") else {"num_features": 3}
    ours = getattr(nn, f"{kind}{num_dims}d")(**given, momentum=momentum, track_running_stats=True)
    images = [torch.randn(2 + leaf, 3, *[5] * num_dims) + leaf for leaf in range(3)]
    ours(images[0])
    theirs = copy.deepcopy(ours)
    statistics = RunningStatistics(ours, Workers())
    statistics.start()
    for image in images:
        torch.testing.assert_close(ours(image), theirs(image))
        statistics.take_leaf()
    statistics.finish(len(images))
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer)


@pytest.mark.parametrize("num_leaves", [1, 2, 5])
def test_the_same_bits_on_any_number_of_workers(num_leaves):
    expected = canonical_buffers(Workers(), num_leaves)
    for world in (2, 3):
        for found in run_ranks(canonical_buffers, world, (num_leaves,)):
            assert all((found[name] == value).all() for name, value in expected.items())


def test_an_abandoned_step_leaves_nothing():
    net = make_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    statistics = RunningStatistics(net, Workers())
    statistics.start()
    net(images_of(1) * float("nan"))
    statistics.take_leaf()
    statistics.abandon()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net[1].momentum == 0.1


def skipping_buffers(workers):
    """Each microbatch runs one of two layers only."""
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)]).train()
    statistics = RunningStatistics(layers, workers)
    statistics.start()
    for leaf in partition(5, workers.size)[workers.rank]:
        layers[leaf % 2](images_of(leaf))
        statistics.take_leaf()
    statistics.finish(5)
    return {name: value.numpy() for name, value in layers.state_dict().items()}


def test_a_layer_that_a_microbatch_skips_keeps_its_statistics_for_that_microbatch():
    expected = skipping_buffers(Workers())
    for world in (2, 3):
        for found in run_ranks(skipping_buffers, world):
            assert all((found[name] == value).all() for name, value in expected.items())


def test_a_buffer_that_is_no_batch_norms_is_never_left_to_drift():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, images):
            self.seen += images.mean()
            return images

    net = nn.Sequential(Counter(), nn.BatchNorm2d(3)).train()
    statistics = RunningStatistics(net, Workers())
    statistics.start()
    net(images_of(1))
    with pytest.raises(UserError, match=r"changes the buffers 0\.seen, which are not a batch norm's"):
        statistics.take_leaf()


def test_models_without_batch_norm_cost_nothing():
    statistics = RunningStatistics(nn.Conv2d(1, 1, 1), Workers())
    statistics.start()
    statistics.take_leaf()
    statistics.finish(3)
    assert not statistics.layers
