"""Custom autograd functions on bands: declared ones of both kinds, reentrant checkpoints, and what is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own habit
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from support.ranks import run_ranks
from support.whole_and_bands import Case, assert_exact, compare
from ziggurat.parallel.spatial import UnsupportedOperation, custom_functions_seen, cut, declare, spatial_mesh


class MemoryEfficientSwish(torch.autograd.Function):
    """As EfficientNets have it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * (s * (1 + x * (1 - s)))


class ScaledSwish(torch.autograd.Function):
    """With a parameter of the channels."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        return x * torch.sigmoid(x * scale)

    @staticmethod
    def backward(ctx, gradient):
        x, scale = ctx.saved_tensors
        s = torch.sigmoid(x * scale)
        inner = gradient * x * s * (1 - s)
        return gradient * s + inner * scale, (inner * x).sum((0, 2, 3), keepdim=True)[0]


class SwishInPlace(torch.autograd.Function):
    """Changes what it is given."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.clone())
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class LayerNormFunction(torch.autograd.Function):
    """As NAFNet and MambaIR have it: over the channels of maps."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        ctx.eps = eps
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        y = (x - mean) / (variance + eps).sqrt()
        ctx.save_for_backward(y, variance, weight)
        return weight.view(1, -1, 1, 1) * y + bias.view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx, gradient):
        y, variance, weight = ctx.saved_tensors
        g = gradient * weight.view(1, -1, 1, 1)
        of_x = (g - y * (g * y).mean(1, keepdim=True) - g.mean(1, keepdim=True)) / (variance + ctx.eps).sqrt()
        return of_x, (gradient * y).sum((0, 2, 3)), gradient.sum((0, 2, 3)), None


class Mixed(torch.autograd.Function):
    """Gives two results, of other channels, from maps and a mask of positions; channels are the last dim."""

    @staticmethod
    def forward(ctx, x, weight, mask):
        ctx.save_for_backward(x, weight, mask)
        return (x @ weight) * mask, x.sum(-1, keepdim=True)

    @staticmethod
    def backward(ctx, first, second):
        x, weight, mask = ctx.saved_tensors
        first = first * mask
        return first @ weight.T + second, x.flatten(0, -2).T @ first.flatten(0, -2), None


class Foreign(torch.autograd.Function):
    """Nobody has declared it."""

    @staticmethod
    def forward(ctx, x):
        return x.flip(2)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.flip(2)


class Halving(torch.autograd.Function):
    """Is declared as what it is not."""

    @staticmethod
    def forward(ctx, x):
        return x[:, :, ::2]

    @staticmethod
    def backward(ctx, gradient):
        return gradient.repeat_interleave(2, 2)


@pytest.fixture(scope="module", autouse=True)
def declared():
    for name in ("MemoryEfficientSwish", "ScaledSwish", "SwishInPlace"):
        declare(name, "pointwise")
    for name in ("LayerNormFunction", "Halving"):
        declare(name, "channels")
    declare("Mixed", "channels", dim=-1)


class Layered(nn.Module):
    """Convolutions about a function, with parameters for it."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.first, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.mixing = nn.LayerNorm(4), nn.Linear(4, 5)
        self.block = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.Tanh(), nn.Dropout(0.3), nn.Conv2d(4, 4, 1)
        )

    def forward(self, x):
        with custom_functions_seen():
            y = self.last(self.function(self, self.first(x)))
            return y + 0 * sum(p.sum() for p in self.parameters())


def mixed(net, x):
    mask = torch.ones(x.shape[2], x.shape[3], 1, dtype=x.dtype).tril(2)[None]
    two, one = Mixed.apply(x.permute(0, 2, 3, 1), net.mixing.weight.T[:, :4], mask)
    return (two * one).permute(0, 3, 1, 2)


def of_channels_last(net, x):
    y = MemoryEfficientSwish.apply(x.contiguous(memory_format=torch.channels_last))
    return F.dropout(y, 0.3) * torch.rand_like(y)


def in_place(net, x):
    y = x * 1
    part = y[:, :, 3:9]
    SwishInPlace.apply(part)
    return y + SwishInPlace.apply(x * 2)


FUNCTIONS = {
    "pointwise": lambda net, x: MemoryEfficientSwish.apply(x),
    "pointwise with a parameter": lambda net, x: ScaledSwish.apply(x, net.norm.weight[:, None, None]),
    "pointwise of an order of memory": of_channels_last,
    "pointwise in place": in_place,
    "of tokens": lambda net, x: MemoryEfficientSwish.apply(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape),
    "layer norm": lambda net, x: LayerNormFunction.apply(x, net.norm.weight, net.norm.bias, 1e-6),
    "layer norm of a slice": lambda net, x: F.pad(LayerNormFunction.apply(x[:, :, 3:], net.norm.weight, net.norm.bias, 1e-6), (0, 0, 3, 0)),
    "mixed": mixed,
    "reentrant checkpoint": lambda net, x: checkpoint(net.block, x, use_reentrant=True),
    "reentrant checkpoint of two": lambda net, x: checkpoint(lambda a, b: net.block(a) * b, x, x.sigmoid(), use_reentrant=True),
    "reentrant checkpoint of what has no gradient": lambda net, x: x + checkpoint(net.block, x.detach(), use_reentrant=True),
    "reentrant checkpoints of a sequence": lambda net, x: checkpoint_sequential(net.block, 2, x, use_reentrant=True),
    "reentrant checkpoint of a custom one": lambda net, x: checkpoint(lambda a: net.block(a) * a, MemoryEfficientSwish.apply(x), use_reentrant=True),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("degrees", [(2,), (3,), (2, 2)], ids=str)
def test_what_is_declared_is_computed_on_bands(degrees):
    cases = {
        name: Case(type(name, (Layered,), {"__init__": lambda self, f=f: Layered.__init__(self, f)}))
        for name, f in FUNCTIONS.items()
    }
    for name, found in compare(cases, degrees).items():
        assert not isinstance(found, str), (name, found)
        assert_exact(found)


def refusals(workers):
    bands = cut(torch.rand(2, 4, 8, 6), spatial_mesh(workers, (workers.size,)))
    found = []
    for function, given in ((Foreign, bands), (Halving, bands), (LayerNormFunction, bands.transpose(1, 2))):
        more = (torch.ones(4), torch.ones(4), 1e-6) if function is LayerNormFunction else ()
        with custom_functions_seen(), pytest.raises(UnsupportedOperation) as caught:
            function.apply(given, *more)
        found.append((caught.value.operation, caught.value.reason, caught.value.remedy))
    return found


def test_what_is_refused():
    for foreign, halving, norm in run_ranks(refusals, 2):
        assert foreign[0] == "Foreign"
        assert 'declare("Foreign", "pointwise")' in foreign[2]
        assert "only channels may change" in halving[1]
        assert "are cut" in norm[1]


def test_an_operation_is_declared_once():
    with pytest.raises(ValueError, match="once"):
        declare("MemoryEfficientSwish", "pointwise")
