"""Two functions of one name: a function, a method, one in place, one of the layer's; and one function with several forms."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from programs.networks import Between, OnTokens, Returned

PLANS = {
    "normal_of_mean_and_deviation": "sp=2 sp=2x2",
    "maximum_in_three_forms": "sp=2 sp=2x2",
    "rolled_without_dims": "sp=2 sp=3",
    "batch_norm_by_torch": "sp=2 pp=2",
}


def normal_of_mean_and_deviation() -> nn.Module:
    """``torch.normal(mean, deviation)`` of two maps."""
    return Between(lambda x: x * torch.normal(x.detach() + 5, x.detach().abs() / 100))


def normal_of_deviation() -> nn.Module:
    """``torch.normal(0.0, deviation)`` of a number and a map."""
    return Between(lambda x: x + torch.normal(0.0, x.detach().abs()))


def normal_of_size() -> nn.Module:
    """``torch.normal(0.0, 1.0, size)``: a plain tensor."""
    return Between(lambda x: x + torch.normal(0.0, 1.0, x.shape, dtype=x.dtype))


def normal_in_place() -> nn.Module:
    """``Tensor.normal_`` of an empty map."""
    return Between(lambda x: x * torch.empty_like(x).normal_(5.0, 0.01))


def bernoulli_in_three_forms() -> nn.Module:
    """``torch.bernoulli(p)``, ``x.bernoulli(0.3)`` and ``x.bernoulli_(0.3)``."""
    return Between(
        lambda x: (
            x
            + torch.bernoulli(x.detach().sigmoid())
            + x.detach().bernoulli(0.3)
            + x.detach().clone().bernoulli_(0.6)
        )
    )


def maximum_in_three_forms() -> nn.Module:
    """``torch.max`` of one map, of a dim, and of two maps."""
    return Between(lambda x: torch.max(x, x.flip(3)) / torch.max(x) + torch.max(x, 2, keepdim=True)[0])


def minimum_in_three_forms() -> nn.Module:
    """``Tensor.min`` of all, of a dim by name, and of two maps."""
    return Between(lambda x: x.min(x.flip(2)) * x.min() + x.min(dim=3, keepdim=True).values)


def where_as_a_method() -> nn.Module:
    """``x.where(condition, other)``: the condition comes second."""
    return Between(lambda x: x.where(x > 0.2, x * 3) + torch.where(x < 0, x, x.tanh()))


def where_with_numbers() -> nn.Module:
    """``torch.where`` with a number on either side."""
    return Between(lambda x: x * torch.where(x > 0, 2.0, 0.5) + torch.where(x > 1, x, 0.0))


def power_both_ways() -> nn.Module:
    """``torch.pow(2, x)`` and ``x.pow(2)``, ``2 ** x`` and ``x ** 2``."""
    return Between(lambda x: torch.pow(2.0, x) + x.pow(2) - 2**x * x**2 / 4)


def subtracted_both_ways() -> nn.Module:
    """``torch.rsub``, ``1 - x``, ``x.sub(y, alpha=2)``."""
    return Between(lambda x: torch.rsub(x, 1.0) + (1 - x.tanh()) + x.sub(x.flip(3), alpha=2))


def divided_and_rounded() -> nn.Module:
    """``torch.div`` with and without a rounding mode, ``x // 0.3`` and ``x % 0.3``."""
    return Between(
        lambda x: torch.div(x, 0.7) + torch.div(x, 0.7, rounding_mode="floor") + x.detach() // 0.3 + x % 0.3
    )


def added_with_a_factor() -> nn.Module:
    """``torch.add(x, y, alpha=2)``, ``x.add_(y, alpha=3)``, ``torch.addcmul`` and ``addcdiv_``."""

    def add(x: Tensor) -> Tensor:
        y = torch.add(x, x.tanh(), alpha=2).add_(x.sin(), alpha=3)
        return torch.addcmul(y, x, x.cos(), value=0.5).addcdiv_(x, x.square() + 1, value=2)

    return Between(add)


def split_in_two_forms() -> nn.Module:
    """``torch.split`` by a size and by a list, over rows and over channels."""

    def split(x: Tensor) -> Tensor:
        parts = torch.split(x, 7, 2)
        first, second = x.split([3, 5], dim=1)
        return torch.cat(parts[::-1], 2) * torch.cat([second, first], 1)

    return Between(split)


def chunks_in_three_forms() -> nn.Module:
    """``torch.chunk``, ``tensor_split`` by a number and by indices."""

    def chunk(x: Tensor) -> Tensor:
        together = torch.cat(torch.chunk(x, 5, 2)[::-1], 2)
        return (
            together
            + torch.cat(x.tensor_split(5, 2)[::-1], 2)
            + torch.cat(x.tensor_split((4, 9), 3)[::-1], 3)
        )

    return Between(chunk)


def deviation_in_all_forms() -> nn.Module:
    """``std()``, ``std(dim)``, ``std(False)``, ``var(correction=0)`` and ``var_mean``."""

    def measure(x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, (2, 3), keepdim=True, correction=0)
        return (
            x * x.std() + x.std(1, keepdim=True) + x.std(False) + x.var((2, 3), correction=0, keepdim=True)
        ) * variance + mean

    return Between(measure)


def norms_of_every_kind() -> nn.Module:
    """``torch.norm``, ``Tensor.norm``, ``torch.linalg.vector_norm`` and ``functional.normalize``."""
    return Between(
        lambda x: (
            (
                x * torch.norm(x)
                + x.norm(2, 1, keepdim=True)
                + torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
                + functional.normalize(x, dim=1)
                + torch.norm(x, p=1, dim=2, keepdim=True)
            )
            / 50
        )
    )


def softmax_of_every_kind() -> nn.Module:
    """``torch.softmax``, ``functional.softmax``, ``nn.Softmax2d``, ``x.log_softmax`` over channels, rows and columns."""
    layer = nn.Softmax2d()
    return Between(
        lambda x: torch.softmax(x, 2) * 24 + functional.softmax(x, dim=3) * 20 + layer(x) + x.log_softmax(1)
    )


def dropout_by_torch() -> nn.Module:
    """``torch.dropout(x, p, train)`` and ``torch.feature_dropout``."""
    return Between(lambda x: torch.dropout(x, 0.3, True) + torch.feature_dropout(x, 0.3, True))


def batch_norm_by_torch() -> nn.Module:
    """``torch.batch_norm``, whose arguments stand in another order than those of ``functional.batch_norm``."""

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8))
            self.register_buffer("mean", torch.zeros(8))
            self.register_buffer("variance", torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            return torch.batch_norm(
                x, self.weight, self.bias, self.mean, self.variance, True, 0.1, 1e-5, False
            )

    return Between(Norm())


def group_norm_by_torch() -> nn.Module:
    """``torch.group_norm`` and ``torch.layer_norm``, as functions."""
    weight = torch.rand(8, dtype=torch.float64)
    return Between(
        lambda x: (
            torch.group_norm(x, 2, weight, weight)
            + torch.layer_norm(x.permute(0, 2, 3, 1), (8,), weight).permute(0, 3, 1, 2)
        )
    )


def convolution_by_torch() -> nn.Module:
    """``torch.conv2d`` with its arguments in order, and with a name for padding."""
    weight = torch.linspace(-1, 1, 8 * 4 * 9, dtype=torch.float64).view(8, 4, 3, 3)
    return Between(
        lambda x: (
            torch.conv2d(x, weight, None, (1, 1), (1, 1), (1, 1), 2)
            + functional.conv2d(x, weight, padding="same", groups=2, dilation=2)
        )
    )


def pooling_by_torch() -> nn.Module:
    """``torch.max_pool2d``, ``functional.max_pool2d`` by name, ``functional.lp_pool2d``."""
    return Between(
        lambda x: (
            torch.max_pool2d(x, 3, 1, 1)
            + functional.max_pool2d(x, kernel_size=3, stride=1, padding=1)
            + functional.lp_pool2d(functional.pad(x.abs() + 0.1, (1, 1, 1, 1)), 2, 3, 1)
        )
    )


def embedding_by_torch() -> nn.Module:
    """``torch.embedding(weight, indices)`` and ``functional.embedding(indices, weight)`` of the largest channel at each position."""
    weight = torch.linspace(-1, 1, 64, dtype=torch.float64).view(8, 8)

    def embed(x: Tensor) -> Tensor:
        largest = x.detach().argmax(1)
        both = torch.embedding(weight, largest) + functional.embedding(largest, weight)
        return x + both.permute(0, 3, 1, 2)

    return Between(embed)


def clamp_with_tensors() -> nn.Module:
    """``torch.clamp`` with numbers, with maps, and with one of both missing."""
    return Between(lambda x: torch.clamp(x, -0.5, 0.5) + x.clamp(max=x.flip(3)) + torch.clip(x, min=0.1))


def view_of_another_type() -> nn.Module:
    """``x.view(torch.int64)`` looks at the same bits; its sign bit decides."""
    return Between(lambda x: x * (x.detach().view(torch.int64) < 0))


def type_by_name() -> nn.Module:
    """``x.type("torch.DoubleTensor")`` and ``x.type()``, which is a text."""
    return Between(lambda x: x.type("torch.DoubleTensor") * (2.0 if "Double" in x.type() else 3.0))


def permuted_in_three_forms() -> nn.Module:
    """``permute`` by numbers, by a list, and ``torch.permute``."""
    return Between(
        lambda x: (
            x.permute(0, 2, 3, 1)
            .permute([0, 3, 1, 2])
            .mul(torch.permute(x, (0, 1, 3, 2)).permute(dims=(0, 1, 3, 2)))
        )
    )


def flipped_in_two_forms() -> nn.Module:
    """``flip`` by numbers and by a list, ``fliplr`` of ``torch.flip``."""
    return Between(lambda x: x.flip(2, 3) + torch.flip(x, [2]) * x.flip((3,)))


def rolled_without_dims() -> nn.Module:
    """``torch.roll(x, 7)`` without dims rolls the flattened tensor."""
    return Between(lambda x: x + torch.roll(x, 7))


def sums_in_all_forms() -> nn.Module:
    """``torch.sum(x)``, of a dim, of a list of dims, of negative dims, and with a type."""
    return Between(
        lambda x: (
            x
            + torch.sum(x) / 1000
            + x.sum((2, 3), keepdim=True) / 100
            + x.sum(-1, keepdim=True)
            + torch.sum(x, dim=[-2], keepdim=True, dtype=torch.float64)
        )
    )


def sizes_in_two_forms() -> nn.Module:
    """``x.size()``, ``x.size(2)``, ``x.shape``, ``len(x)``, ``x.numel()``, ``x.ndim`` and ``x.stride()``."""
    return Between(
        lambda x: (
            x.view(x.size(0), -1).view(x.size()) * (x.size(2) + x.numel() + x.ndim + x.stride()[1]) / 1e3
        )
    )


def squeezed_in_all_forms() -> nn.Module:
    """``squeeze()`` without a dim, with one, with several."""
    return Between(
        lambda x: (
            x
            + x.mean((1, 3), keepdim=True).squeeze()[:, None, :, None]
            + x.mean((1, 2), keepdim=True).squeeze((1, 2))[:, None, None]
        )
    )


def linear_in_all_forms() -> nn.Module:
    """``functional.linear``, ``torch.matmul``, ``x @ w``, ``torch.einsum`` and ``torch.baddbmm`` with one weight."""
    weight = torch.linspace(-1, 1, 64, dtype=torch.float64).view(8, 8)
    return OnTokens(
        lambda x: (
            functional.linear(x, weight)
            + torch.matmul(x, weight.T)
            + x @ weight
            + torch.einsum("bnc,dc->bnd", x, weight)
            + torch.baddbmm(x, x, weight.expand(len(x), -1, -1), beta=0.5, alpha=2)
        )
    )


def activations_in_all_forms() -> nn.Module:
    """``torch.relu``, ``functional.relu``, ``x.relu()``, ``torch.relu_``, ``functional.threshold``, ``functional.leaky_relu_``."""
    return Between(
        lambda x: (
            torch.relu(x)
            + functional.relu(x - 0.1)
            + x.sub(0.2).relu()
            + torch.relu_(x - 0.3)
            + functional.threshold(x, 0.4, 0.1)
            + functional.leaky_relu_(x + 0.1, 0.2)
        )
    )


def interpolation_in_two_forms() -> nn.Module:
    """``functional.upsample`` of old, ``nn.Upsample`` and ``functional.interpolate`` by factors of each dim."""
    layer = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    return Between(
        lambda x: layer(x) + functional.interpolate(x, scale_factor=(2.0, 2.0), mode="nearest-exact")
    )


def largest_and_where() -> nn.Module:
    """``x.argmax()``, ``x.argmax(1)``, ``x.max(1)`` with both results, ``x.topk`` and ``x.sort`` of channels."""

    def choose(x: Tensor) -> Tensor:
        values, indices = x.max(1, keepdim=True)
        top, order = x.topk(3, 1)
        return x + values * indices + top.sum(1, keepdim=True) + order[:, 1:2] + x.sort(1, descending=True)[0]

    return Between(choose)


def comparisons_returned() -> nn.Module:
    """``torch.eq``, ``x == y``, ``x.equal(x)``, ``torch.allclose``: maps of truth, and truths."""
    return Returned(
        lambda x: [
            x,
            torch.eq(x, x),
            x == x.flip(3),
            x.ge(0.0),
            x * float(torch.equal(x, x) and x.allclose(x)),
        ]
    )
