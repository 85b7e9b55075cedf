"""Running statistics: PyTorch's own sequence of updates, and the same bits on any number of workers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

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
            with statistics.watching():
                net(images_of(leaf + step))
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
        with statistics.watching():
            torch.testing.assert_close(ours(image), theirs(image))
        statistics.take_leaf()
    statistics.finish(len(images))
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer)


@pytest.mark.parametrize("momentum", [0.1, 0.001, 1.0, None])
def test_many_microbatches_are_pytorchs_sequence_to_rounding(momentum):
    """A tree of updates and a sequence of them, of statistics that grow and shrink, in float64."""
    ours = nn.BatchNorm1d(4, momentum=momentum).double()
    theirs = copy.deepcopy(ours)
    statistics = RunningStatistics(ours, Workers())
    for step in range(2):
        statistics.start()
        for leaf in range(100):
            generator = torch.Generator().manual_seed(100 * step + leaf)
            values = torch.randn(8, 4, generator=generator, dtype=torch.float64) * 10.0 ** (leaf % 7 - 3)
            theirs(values)
            with statistics.watching():
                ours(values)
            statistics.take_leaf()
        statistics.finish(100)
    for name, buffer in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], buffer, rtol=1e-13, atol=0)


def test_a_norm_that_counts_nothing_and_has_no_momentum_keeps_its_statistics_as_pytorchs_does():
    ours = nn.BatchNorm2d(3, momentum=None)
    ours.num_batches_tracked = None
    theirs = copy.deepcopy(ours)
    statistics = RunningStatistics(ours, Workers())
    statistics.start()
    for leaf in range(2):
        theirs(images_of(leaf))
        with statistics.watching():
            ours(images_of(leaf))
        statistics.take_leaf()
    statistics.finish(2)
    assert torch.equal(ours.running_mean, theirs.running_mean)
    assert torch.equal(ours.running_var, theirs.running_var)


@pytest.mark.parametrize("num_leaves", [1, 2, 5])
def test_the_same_bits_on_any_number_of_workers(num_leaves):
    expected = canonical_buffers(Workers(), num_leaves)
    for world in (2, 3):
        for found in run_ranks(canonical_buffers, world, (num_leaves,)):
            assert all((found[name] == value).all() for name, value in expected.items())


def sent_by_statistics(workers, num_leaves):
    before = workers.sent.copy()
    canonical_buffers(workers, num_leaves, steps=1)
    return workers.sent - before


def test_what_travels_does_not_grow_with_the_number_of_microbatches():
    few, many = (run_ranks(sent_by_statistics, 2, (num_leaves,)) for num_leaves in (2, 16))
    assert few == many
    statistics, counters = 2 * (4 + 5), 2
    assert few[0].bytes == 2 * 8 * (statistics + counters), (
        "a factor and a summand; half of them to the other, and back"
    )


def test_an_abandoned_step_leaves_nothing():
    net = make_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    statistics = RunningStatistics(net, Workers())
    statistics.start()
    with statistics.watching():
        net(images_of(1) * float("nan"))
    statistics.take_leaf()
    statistics.abandon()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net[1].momentum == 0.1


class OwnBuffers(nn.Module):
    """A norm that derives from none of PyTorch's."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(3))
        self.register_buffer("running_var", torch.ones(3))

    def forward(self, images):
        return functional.batch_norm(images, self.running_mean, self.running_var, training=True, momentum=0.2)


class Uses(nn.Module):
    """A network that calls its norms in one of the ways of `WAYS`, in which `leaf` is the number of the microbatch."""

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.way = WAYS[way]
        self.scale = nn.Conv2d(3, 3, 1)
        self.norms = nn.ModuleList(
            [nn.BatchNorm2d(3), nn.BatchNorm2d(3, momentum=None), nn.InstanceNorm2d(3, track_running_stats=True), OwnBuffers()]
        )  # fmt: skip

    def forward(self, images, leaf):
        return self.way(self, self.scale(images), leaf)


def in_turn(net, x, leaf, times):
    for norm in net.norms:
        for _ in range(times):
            x = norm(x) * 1.5 + 0.1
    return x


def by_function(net, x, leaf):
    one = net.norms[0]
    for momentum in (0.3, 0.01):
        x = (
            functional.batch_norm(x, one.running_mean, one.running_var, one.weight, one.bias, True, momentum)
            + 0.2
        )
    return torch.batch_norm(
        net.norms[0](x), None, None, one.running_mean, one.running_var, True, 0.7, 1e-5, False
    )


def pyramid(net, x, leaf):
    """A head that levels share: as many calls as the microbatch has levels."""
    levels = [functional.avg_pool2d(x, 2**level) for level in range(1 + leaf % 3)]
    return sum(in_turn(net, level, leaf, 1).mean() for level in levels)


WAYS = {
    "once": lambda net, x, leaf: in_turn(net, x, leaf, 1),
    "three times": lambda net, x, leaf: in_turn(net, x, leaf, 3),
    "not in each microbatch": lambda net, x, leaf: net.norms[leaf % 4](x),
    "never": lambda net, x, leaf: x,
    "as many times as the microbatch says": lambda net, x, leaf: in_turn(net, x, leaf, leaf % 3),
    "by function, with momenta of its own": by_function,
    "with momentum 0": lambda net, x, leaf: functional.batch_norm(
        functional.batch_norm(x, net.norms[3].running_mean, net.norms[3].running_var, training=True, momentum=0.0) + x,
        net.norms[3].running_mean, net.norms[3].running_var, training=True, momentum=0.0,
    ),
    "a head that levels share": pyramid,
}  # fmt: skip


def buffers_after(workers, way, num_leaves, steps=2):
    net = Uses(way).train()
    statistics = RunningStatistics(net, workers)
    for step in range(steps):
        statistics.start()
        for leaf in partition(num_leaves, workers.size)[workers.rank]:
            with statistics.watching():
                net(images_of(leaf + step), leaf).sum().backward()
            statistics.take_leaf()
        statistics.finish(num_leaves)
    return {name: value.numpy() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("way", WAYS)
def test_however_norms_are_called_it_is_what_pytorch_does(way):
    net = Uses(way).train()
    for step in range(2):
        for leaf in range(5):
            net(images_of(leaf + step), leaf)
    found = buffers_after(Workers(), way, 5)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(torch.from_numpy(found[name]), value, rtol=1e-5, atol=1e-6, msg=name)


def every_way(workers, num_leaves, tiers=None):
    workers.arrange(tiers or [workers.size])
    return {way: buffers_after(workers, way, num_leaves) for way in WAYS}


@pytest.mark.parametrize("num_leaves", [1, 5])
def test_however_norms_are_called_the_bits_are_the_same_on_any_number_of_workers(num_leaves):
    expected = every_way(Workers(), num_leaves)
    for world, tiers in ((2, None), (3, None), (4, (2, 2))):
        for found in run_ranks(every_way, world, (num_leaves, tiers)):
            for way, values in expected.items():
                assert all((found[way][name] == value).all() for name, value in values.items()), way


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_backward_computes_again_counts_once(reentrant):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3, momentum=None)
    ).train()
    ours = copy.deepcopy(net)
    statistics = RunningStatistics(ours, Workers())
    statistics.start()
    for leaf in range(3):
        net(images_of(leaf))
        images = images_of(leaf).requires_grad_()
        with statistics.watching():
            checkpoint(lambda x: ours(x) + ours(x * 2), images, use_reentrant=reentrant).sum().backward()
        net(images_of(leaf) * 2)
        statistics.take_leaf()
    statistics.finish(3)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def in_place(norm, x):
    norm.running_mean.lerp_(x.mean((0, 2, 3)).detach(), 0.1)
    return x


def through_data(norm, x):
    norm.running_var.data.mul_(0.9)
    return x


def scripted(norm, x):
    return norm.scripted[0](x)


def in_evaluation_and_in_training(norm, x):
    norm.eval()(x)
    norm.train()(x)


def swapped(norm, x):
    return functional.batch_norm(x, norm.running_var, norm.running_mean, training=True)


def other_buffer(norm, x):
    return functional.batch_norm(x, norm.running_mean, norm.other, training=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    "change", [in_place, through_data, scripted, in_evaluation_and_in_training, swapped, other_buffer]
)
def test_statistics_that_change_unseen_are_refused_by_name(change):
    norm = nn.BatchNorm2d(3).train()
    norm.scripted = [torch.jit.script(norm)]
    norm.register_buffer("other", torch.ones(3))
    net = nn.Sequential(norm)
    statistics = RunningStatistics(net, Workers())
    statistics.start()

    def microbatch():
        with statistics.watching():
            change(norm, images_of(1))
        statistics.take_leaf()

    with pytest.raises(UserError, match=r"0\.(running_(mean|var)|other)"):
        microbatch()


def test_buffers_of_any_name_may_be_normalized_by():
    """A frozen norm of somebody's own: nothing of it changes."""
    net = nn.BatchNorm2d(3)
    net.register_buffer("mean", torch.zeros(3))
    net.register_buffer("var", torch.ones(3))
    statistics = RunningStatistics(net, Workers())
    statistics.start()
    with statistics.watching():
        out = functional.batch_norm(images_of(0), net.mean, net.var, training=False)
    statistics.take_leaf()
    torch.testing.assert_close(out, images_of(0), rtol=1e-4, atol=1e-4)


def test_a_norms_call_outside_of_a_step_is_pytorchs():
    net, other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    statistics = RunningStatistics(nn.BatchNorm2d(3), Workers())
    statistics.start()
    with statistics.watching():
        net(images_of(0))
    other(images_of(0))
    assert torch.equal(net.running_mean, other.running_mean)
    assert net.running_mean.any()


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
