"""What rounding alone does to a step."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh
from ziggurat.verification.rounding import (
    OtherRoundings,
    OtherSums,
    PairwiseMoments,
    measure_rounding,
    other_functions,
)
from ziggurat.verification.step import Trial, run_step


def trained_once(net, images):
    net(images).square().sum().backward()
    return [*(p.grad for p in net.parameters()), *net.buffers(), images.grad]


def test_pairwise_moments_are_those_of_pytorch():
    """In every form: without weights, without running statistics, with one dim of positions or three."""
    torch.manual_seed(0)
    norms = [
        (nn.BatchNorm1d(3), (5, 3, 7)),
        (nn.BatchNorm2d(3, affine=False), (2, 3, 5, 4)),
        (nn.BatchNorm2d(3, track_running_stats=False), (2, 3, 5, 4)),
        (nn.BatchNorm3d(3, momentum=0.3), (2, 3, 2, 3, 4)),
    ]
    for norm, shape in norms:
        net = nn.Sequential(norm, nn.Tanh()).double()
        images = torch.randn(shape, dtype=torch.float64)
        expected = trained_once(copy.deepcopy(net), images.clone().requires_grad_())
        with PairwiseMoments():
            found = trained_once(net, images.clone().requires_grad_())
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
        net.eval()
        with PairwiseMoments():
            assert torch.equal(net(images), copy.deepcopy(net)(images))


def test_pairwise_moments_are_nearer_to_the_truth():
    """PyTorch adds up value by value on the CPU: the error grows with their number."""
    values = torch.rand(1, 1, 400, 400, dtype=torch.float64) + 1000
    exact = (
        sum(int(v * 2**43) for v in values.flatten().tolist()) / values.numel() / 2**43
    )  # in whole numbers
    means = []
    for pairwise in (False, True):
        norm = nn.BatchNorm2d(1, momentum=1.0).double()
        if pairwise:
            with PairwiseMoments():
                norm(values)
        else:
            norm(values)
        means.append(abs(float(norm.running_mean) - exact))
    assert means[1] < means[0] / 5


class Flat(nn.Module):
    """Is zero but for rounding: what it adds up are equal values."""

    def __init__(self, add_up: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.add_up, self.weight = add_up, nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        flat = (images * self.weight).fill_(0.9)
        return images * self.weight, self.add_up(flat)


@pytest.mark.parametrize(
    "add_up",
    [
        lambda flat: flat - flat.mean(2, keepdim=True),
        lambda flat: flat - torch.sum(flat, (2, 3), keepdim=True) / 35,
        lambda flat: flat.std(),
        lambda flat: flat - torch.var_mean(flat, 3, keepdim=True)[1],
        lambda flat: (flat > flat.mean()).to(flat.dtype) * flat,
        lambda flat: functional.instance_norm(flat),
        lambda flat: functional.group_norm(flat, 1),
        lambda flat: functional.layer_norm(flat, flat.shape[2:]),
        lambda flat: functional.batch_norm(flat, None, None, training=True),
    ],
)
def test_what_is_left_of_sums_of_equal_values_is_told_to_be_rounding(
    add_up: Callable[[Tensor], Tensor],
) -> None:
    trial = Trial(torch.randn(2, 3, 7, 5, dtype=torch.float64))
    reference = run_step(Flat(add_up).double(), trial, make_mesh(Workers()))
    moved = measure_rounding(lambda: Flat(add_up).double(), trial, reference)
    assert moved.outputs > 0.1


def test_only_sums_of_numbers_with_a_point_have_other_last_bits() -> None:
    values, whole = torch.rand(7, 5, dtype=torch.float64) + 1, torch.arange(35).view(7, 5)
    expected = values.mean(0), values * 2, whole.sum()
    with OtherSums(torch.Generator().manual_seed(0)):
        found = values.mean(0), values * 2, whole.sum()
    assert 0 < (found[0] - expected[0]).abs().max() < 1e-14
    assert torch.equal(found[1], expected[1])
    assert torch.equal(found[2], expected[2])


@pytest.mark.parametrize(
    "network",
    [
        lambda x: functional.kl_div(x.log_softmax(1), x.softmax(1), reduction="batchmean"),
        lambda x: (x + 1) / 3 - x / 3 - 1 / 3,
        lambda x: (x.square().sqrt() > x.abs()).to(x.dtype),
        lambda x: functional.mse_loss(x * 3 / 3, x),
    ],
)
def test_other_roundings_move_what_is_nothing_but_rounding(network: Callable[[Tensor], Tensor]) -> None:
    x = torch.rand(2, 3, 7, 5, dtype=torch.float64) + 1
    with OtherRoundings(torch.Generator().manual_seed(0)):
        moved = network(x)
    assert (moved - network(x)).abs().max() > 0.5 * network(x).abs().max()


def test_other_roundings_leave_views_and_what_is_changed_in_place() -> None:
    x = torch.rand(3, 4, dtype=torch.float64)
    expected = x.clone()
    with OtherRoundings(torch.Generator().manual_seed(0)):
        view = x.t()[1:].view(3, 3)
        same = x.mul_(2)
        doubled = x * 1
    assert torch.equal(view, 2 * expected.t()[1:])
    assert same is x
    assert torch.equal(x, 2 * expected)
    assert 0 < (doubled - x).abs().max() < 1e-15


def test_functions_of_a_network_alone_have_other_roundings() -> None:
    network, x = nn.Sequential(nn.Linear(5, 5), nn.Tanh()).double(), torch.rand(3, 5, dtype=torch.float64)
    expected = network(x)
    with other_functions(network, torch.Generator().manual_seed(0)):
        moved, beside = network(x), x * 1
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            network(x[:, 1:])
        after = x * 1
    assert 0 < (moved - expected).abs().max() < 1e-14
    assert torch.equal(beside, x)
    assert torch.equal(after, x)
    assert torch.equal(network(x), expected)
