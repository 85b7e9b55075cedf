"""Arguments that say type and device only, and arguments that say a shape: a plain tensor stays plain where it takes only the type."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from programs.networks import Between, OnTokens, Returned

WEIGHT = torch.arange(8.0).view(1, 8, 1, 1)
MATRIX = torch.linspace(-1, 1, 24 * 20).view(24, 20)  # of the size of the map
PLANS = {
    "weight_to_like": "sp=2 sp=2x2 pp=2",
    "weight_to_like_averaged": "sp=2 sp=3",
    "expanded_like_and_summed": "sp=2 sp=2x2",
    "enlarged_plus_mean_image": "sp=2 sp=2x2",
    "sine_positions": "sp=2 sp=2x2",
    "matrix_of_the_size_of_the_map": "sp=2 sp=2x2",
    "new_zeros_of_another_shape": "sp=2 pp=2",
}


def weight_to_like() -> nn.Module:
    """``weight.to(x) * x``."""
    return Between(lambda x: WEIGHT.to(x) * x)


def weight_to_like_averaged() -> nn.Module:
    """The mean of a small weight that was cast like the map."""
    return Between(lambda x: x * WEIGHT.to(x).mean())


def weight_type_as_summed() -> nn.Module:
    """The sum of a small weight, by ``type_as``."""
    return Between(lambda x: x * WEIGHT.type_as(x).sum() / 28)


def weight_type_as_largest() -> nn.Module:
    """The largest of a small weight, by ``type_as``."""
    return Between(lambda x: x / WEIGHT.type_as(x).max())


def weight_type_as_normed() -> nn.Module:
    """The norm of a small weight, by ``type_as``."""
    return Between(lambda x: x / WEIGHT.type_as(x).norm())


def matrix_of_the_size_of_the_map() -> nn.Module:
    """A plain matrix that happens to have the size of the map: its sum, and itself."""
    return Between(lambda x: x * MATRIX.to(x) + MATRIX.to(x).sum() + MATRIX.to(x).square().mean())


def enlarged_plus_mean_image() -> nn.Module:
    """The mean image is cast like the small image, and added to the large one (super-resolution)."""
    return Between(
        lambda x: functional.interpolate(x - WEIGHT.type_as(x), scale_factor=2.0) + WEIGHT.type_as(x)
    )


def mean_cast_like_itself() -> nn.Module:
    """``self.mean = self.mean.type_as(x)``: a plain attribute is replaced by a cast one (SwinIR), and used on a later size."""

    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.layer = torch.rand(1, 8, 1, 1), nn.Conv2d(8, 32, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.mean = self.mean.type_as(x)
            return functional.pixel_shuffle(self.layer((x - self.mean) * 2), 2) / 2 + self.mean

    return Between(Centred())


def expanded_like_and_summed() -> nn.Module:
    """``weight.expand_as(x)`` takes the shape, too: its sum counts every position."""
    return Between(lambda x: x + WEIGHT.to(x.dtype).expand_as(x).sum() / x.numel())


def expanded_to_the_shape() -> nn.Module:
    """``weight.expand(x.shape)`` and a window over it."""
    return Between(lambda x: functional.avg_pool2d(WEIGHT.to(x.dtype).expand(x.shape), 3, 1, 1) * x)


def broadcast_to_the_shape() -> nn.Module:
    """``torch.broadcast_to(weight, x.shape)``, joined with the map."""
    return Between(lambda x: torch.cat([x, torch.broadcast_to(WEIGHT.to(x.dtype), x.shape)], 1), 16)


def viewed_like() -> nn.Module:
    """Plain numbers in the shape of the map, by ``view_as``."""
    return Between(lambda x: x + torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x))


def reshaped_like() -> nn.Module:
    """Plain numbers in the shape of some of its rows, by ``reshape_as``."""
    return Between(lambda x: x * torch.arange(8.0, dtype=x.dtype).reshape_as(x[:1, :, 0, 0]).view(1, 8, 1, 1))


def zeros_like_channels() -> nn.Module:
    """Zeros like one channel, plus a weight, joined with the map."""
    return Between(lambda x: torch.cat([x, torch.zeros_like(x[:, :1]) + 0.5], 1), 9)


def full_like_summed() -> nn.Module:
    """The sum of ``torch.full_like(x, 2)``: as many as the whole has elements."""
    return Between(lambda x: x + torch.full_like(x, 2.0).sum() / x.numel())


def ones_like_cumulated() -> nn.Module:
    """Rows are counted: ``torch.ones_like(x).cumsum(2)``."""
    return Between(lambda x: x + torch.ones_like(x[:, :1]).cumsum(2) / 24)


def new_zeros_of_another_shape() -> nn.Module:
    """``x.new_zeros((1, 8, 1, 1))`` is plain, with the type of x."""
    return Between(lambda x: x + x.new_zeros((1, 8, 1, 1)).add(0.25).sum())


def new_tensor_of_numbers() -> nn.Module:
    """``x.new_tensor([...])``: means of three channels."""
    return Between(lambda x: x * x.new_tensor([0.5, 1.0, 1.5, 2.0] * 2).view(1, 8, 1, 1))


def new_full_of_its_shape() -> nn.Module:
    """``x.new_full(x.shape, 2)``: as large as the whole."""
    return Between(lambda x: x + functional.max_pool2d(x.new_full(x.shape, 2.0), 3, 1, 1).mean())


def tensor_of_its_type() -> nn.Module:
    """``torch.tensor(0.5, dtype=x.dtype, device=x.device)``."""
    return Between(lambda x: x * torch.tensor(0.5, dtype=x.dtype, device=x.device))


def number_cast_like() -> nn.Module:
    """``torch.as_tensor(2.0).to(x)``: a scalar."""
    return Between(lambda x: x * torch.as_tensor(2.0).to(x).log1p())


def rows_counted_like() -> nn.Module:
    """``torch.arange(rows).to(x)``: a number for each row, normalised by its own maximum."""

    def add(x: Tensor) -> Tensor:
        rows = torch.arange(x.shape[2]).to(x)
        return x + (rows / rows.max()).view(1, 1, -1, 1)

    return Between(add)


def coordinates_type_as() -> nn.Module:
    """A grid of coordinates, by ``type_as``, joined with the map, and its mean."""

    def join(x: Tensor) -> Tensor:
        rows = (
            torch.linspace(-1, 1, x.shape[2]).type_as(x).view(1, 1, -1, 1).expand(len(x), 1, -1, x.shape[3])
        )
        columns = torch.linspace(-1, 1, x.shape[3]).type_as(x).view(1, 1, 1, -1).expand_as(rows)
        return torch.cat([x, rows, columns + rows.abs().mean()], 1)

    return Between(join, 10)


def sine_positions() -> nn.Module:
    """The sine positions of DETR: a mask of ones is cumulated, normalised by its last row, and divided by frequencies."""

    def add(x: Tensor) -> Tensor:
        mask = torch.ones(len(x), *x.shape[2:], dtype=torch.bool, device=x.device)
        rows, columns = mask.cumsum(1, dtype=x.dtype), mask.cumsum(2, dtype=x.dtype)
        rows, columns = rows / (rows[:, -1:] + 1e-6), columns / (columns[:, :, -1:] + 1e-6)
        powers = 100 ** (torch.arange(2, dtype=x.dtype, device=x.device) / 2)
        both = [part[..., None] / powers for part in (rows, columns)]
        waves = torch.cat([wave(part) for part in both for wave in (torch.sin, torch.cos)], 3)
        return x + waves.permute(0, 3, 1, 2)

    return Between(add)


def positions_resized_and_cast() -> nn.Module:
    """Learned positions are resized to the map, and cast like it (transformers at other sizes)."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(1, 8, 7, 7))

        def forward(self, x: Tensor) -> Tensor:
            return x + functional.interpolate(self.table, size=x.shape[2:], mode="bicubic").to(x)

    return Between(Positions())


def fixed_kernel() -> nn.Module:
    """Sobel's kernel, cast like the map, as the weight of a convolution."""
    sobel = torch.tensor([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]])
    return Between(lambda x: x + functional.conv2d(x, sobel.expand(8, 1, 3, 3).to(x), padding=1, groups=8))


def normalised_by_constants() -> nn.Module:
    """``(x - mean.type_as(x)) / std.type_as(x)``, and the mean of the means."""

    def normalise(x: Tensor) -> Tensor:
        mean, deviation = WEIGHT.type_as(x) / 8, (WEIGHT + 1).type_as(x)
        return (x - mean) / deviation + mean.mean()

    return Between(normalise)


def identity_matrix_like() -> nn.Module:
    """``torch.eye(rows).to(x) @ x``."""
    return Between(lambda x: x + torch.eye(x.shape[2]).to(x) @ x)


def causal_mask_like() -> nn.Module:
    """A triangle of minus infinity, as large as the products of all pairs of columns, cast like them."""

    def attend(x: Tensor) -> Tensor:
        scores = x.transpose(2, 3) @ x / 24
        mask = torch.full((x.shape[3], x.shape[3]), float("-inf")).triu(1).to(scores)
        return x @ (scores + mask).softmax(-1).transpose(2, 3)

    return Between(attend)


def one_hot_like() -> nn.Module:
    """A plain one-hot table of channels, cast like the map."""
    return Between(
        lambda x: x + functional.one_hot(torch.arange(8) % 4, 8).type_as(x).sum(0).view(1, 8, 1, 1)
    )


def scale_of_tokens() -> nn.Module:
    """A table of biases for heads, cast like a sequence, and its softmax."""
    return OnTokens(lambda x: x * torch.arange(8.0).to(x).softmax(0))


def plain_beside() -> nn.Module:
    """The network returns a plain tensor beside the map, cast like it."""
    return Returned(lambda x: {"maps": x, "anchors": MATRIX.to(x), "scale": WEIGHT.type_as(x).sum()})


def mask_filled_by_type() -> nn.Module:
    """``torch.finfo(x.dtype).min`` where a plain mask says so."""
    keep = (torch.arange(20) % 3) > 0
    return Between(lambda x: x.masked_fill(~keep, torch.finfo(x.dtype).min).softmax(3) * 20)


def weight_chosen_by_type() -> nn.Module:
    """``torch.where`` of a plain condition, the map and a plain weight cast like it."""
    return Between(lambda x: torch.where(MATRIX > 0, x, WEIGHT.to(x)))
