"""What rounding alone does to a step."""

import copy

import torch
from torch import nn

from ziggurat.verification.rounding import PairwiseMoments


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
