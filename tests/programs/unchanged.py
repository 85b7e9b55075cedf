"""An operation that changes nothing: some return the tensor itself, some a copy, and what is changed in place afterwards tells.

Each doubles the result in place, and returns the sum of both: three times the map for a copy, four times for the tensor itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from programs.networks import Between, OnTokens, last

PLANS = {
    "interpolate_nearest": "sp=2 sp=2x2",
    "lateral_added_in_place": "sp=2 sp=3 pp=2",
    "padded_by_nothing": "sp=2 sp=2x2",
    "dropout_of_nothing": "sp=2 pp=2",
    "to_its_own_device": "sp=2 pp=2",
    "rolled_by_nothing": "sp=2 sp=3",
    "contiguous_of_channels_last": "sp=2 pp=2 lp=2",
    "reshaped_from_channels_last": "pp=2 lp=2",
    "flattened_from_channels_last": "pp=2",
    "cast_to_channels_last": "sp=2 pp=2",
    "contiguous_layer_of_channels_last": "sp=2 pp=2 lp=2",
}


def _doubled(x: Tensor, y: Tensor) -> Tensor:
    y.mul_(2)
    return x + y


def interpolate_nearest() -> nn.Module:
    """Nearest interpolation to the size that the map has."""
    return Between(lambda x: _doubled(x, functional.interpolate(x, size=x.shape[2:])))


def interpolate_by_one() -> nn.Module:
    """Bilinear interpolation by a factor of one."""
    return Between(lambda x: _doubled(x, functional.interpolate(x, scale_factor=1.0, mode="bilinear")))


def interpolate_aligned() -> nn.Module:
    """Bicubic interpolation with aligned corners to the size that the map has."""
    return Between(
        lambda x: _doubled(x, functional.interpolate(x, x.shape[2:], mode="bicubic", align_corners=True))
    )


class _TopDown(nn.Module):
    """A decoder's step whose levels fit already."""

    def __init__(self) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        lateral = self.lateral(x)
        top = functional.interpolate(x, size=lateral.shape[-2:], mode="nearest")
        top += lateral
        return top * x


def lateral_added_in_place() -> nn.Module:
    """``top = interpolate(x, size of the lateral); top += lateral``, and x is used again."""
    return Between(_TopDown())


def padded_by_nothing() -> nn.Module:
    """Zero padding of no rows: decoders pad by the difference of two sizes."""
    return Between(lambda x: _doubled(x, functional.pad(x, (0, x.shape[3] - 20, 0, x.shape[2] - 24))))


def reflected_by_nothing() -> nn.Module:
    """Reflection padding of no rows."""
    return Between(lambda x: _doubled(x, functional.pad(x, (0, 0, 0, 0), mode="reflect")))


def average_pooled_to_its_size() -> nn.Module:
    """Adaptive average pooling to the size that the map has."""
    return Between(lambda x: _doubled(x, functional.adaptive_avg_pool2d(x, x.shape[2:])))


def average_pooled_to_none() -> nn.Module:
    """Adaptive average pooling to ``(None, None)``."""
    return Between(lambda x: _doubled(x, functional.adaptive_avg_pool2d(x, (None, None))))


def largest_pooled_to_its_size() -> nn.Module:
    """Adaptive max pooling to the size that the map has."""
    return Between(lambda x: _doubled(x, functional.adaptive_max_pool2d(x, x.shape[2:])))


def pooled_by_one() -> nn.Module:
    """Average pooling of windows of one position."""
    return Between(lambda x: _doubled(x, functional.avg_pool2d(x, 1)))


def largest_of_one() -> nn.Module:
    """Max pooling of windows of one position."""
    return Between(lambda x: _doubled(x, functional.max_pool2d(x, 1)))


def rolled_by_nothing() -> nn.Module:
    """A roll by no rows (the first of two Swin blocks)."""
    return Between(lambda x: _doubled(x, torch.roll(x, (0, 0), (2, 3))))


def rolled_round() -> nn.Module:
    """A roll by all rows."""
    return Between(lambda x: _doubled(x, x.roll(x.shape[2], 2)))


def flipped_in_no_dim() -> nn.Module:
    """A flip of no dims."""
    return Between(lambda x: _doubled(x, x.flip([])))


def repeated_once() -> nn.Module:
    """`repeat` by one in each dim."""
    return Between(lambda x: _doubled(x, x.repeat(1, 1, 1, 1)))


def tiled_once() -> nn.Module:
    """`tile` by one."""
    return Between(lambda x: _doubled(x, x.tile((1,))))


def repeat_interleaved_once() -> nn.Module:
    """Every row is repeated once."""
    return Between(lambda x: _doubled(x, x.repeat_interleave(1, 2)))


def expanded_to_itself() -> nn.Module:
    """`expand` to the shape that the map has."""
    return Between(lambda x: _doubled(x, x.expand(-1, -1, x.shape[2], -1)))


def to_its_own_device() -> nn.Module:
    """To the device and the type that it has."""
    return Between(lambda x: _doubled(x, x.to(x.device, x.dtype)))


def to_a_copy() -> nn.Module:
    """To the type that it has, as a copy."""
    return Between(lambda x: _doubled(x, x.to(x.dtype, copy=True)))


def doubled_precision() -> nn.Module:
    """``double()`` of what is double already."""
    return Between(lambda x: _doubled(x, x.double()))


def joined_alone() -> nn.Module:
    """`cat` of one tensor."""
    return Between(lambda x: _doubled(x, torch.cat([x], 1)))


def stacked_alone() -> nn.Module:
    """`stack` of one tensor, and that one again."""
    return Between(lambda x: _doubled(x, torch.stack([x])[0]))


def indexed_by_ellipsis() -> nn.Module:
    """``x[...]`` is a view."""
    return Between(lambda x: _doubled(x, x[...]))


def sliced_whole() -> nn.Module:
    """``x[:, :, :]`` is a view."""
    return Between(lambda x: _doubled(x, x[:, :, :]))


def identity_layer() -> nn.Module:
    """An identity and an empty sequence of layers."""
    empty = nn.Sequential(nn.Identity(), nn.Sequential())
    return Between(lambda x: _doubled(x, empty(x)))


def dropout_of_nothing() -> nn.Module:
    """Dropout with a probability of zero, in training."""
    return Between(lambda x: _doubled(x, functional.dropout(x, 0.0, training=True)))


def dropout_at_rest() -> nn.Module:
    """Dropout that is switched off."""
    return Between(lambda x: _doubled(x, functional.dropout(x, 0.5, training=False)))


def channel_dropout_at_rest() -> nn.Module:
    """Dropout of channels that is switched off."""
    return Between(lambda x: _doubled(x, functional.dropout2d(x, 0.5, training=False)))


def reshaped_to_itself() -> nn.Module:
    """A reshape to the shape that the map has."""
    return Between(lambda x: _doubled(x, x.reshape(x.shape)))


def permuted_by_nothing() -> nn.Module:
    """A permutation that leaves all dims."""
    return Between(lambda x: _doubled(x, x.permute(0, 1, 2, 3)))


def squeezed_in_vain() -> nn.Module:
    """`squeeze` of a dim that is not one."""
    return Between(lambda x: _doubled(x, x.squeeze(3)))


def shuffled_by_one() -> nn.Module:
    """Pixel shuffle with a factor of one."""
    return Between(lambda x: _doubled(x, functional.pixel_shuffle(x, 1)))


def channels_last_copy() -> nn.Module:
    """`contiguous` with another memory format is a copy."""
    return Between(lambda x: _doubled(x, x.contiguous(memory_format=torch.channels_last)))


class _LastThen(nn.Module):
    """A convolution whose output is channels-last, though its input is not; and a function that looks at that."""

    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 1).to(memory_format=torch.channels_last)
        self.third, self.then = nn.Conv2d(8, 8, 3, padding=1), then

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        made = self.second(self.first(x))
        column, then = made[..., -1], self.then(made)
        side = self.third(torch.tanh(made))
        made.add_(then if then.shape == made.shape else then.reshape(made.shape))
        return side + made, column + 1


def contiguous_of_channels_last() -> nn.Module:
    """`contiguous` copies what a convolution with channels-last weights has made."""
    return _LastThen(lambda made: made.contiguous())


def reshaped_from_channels_last() -> nn.Module:
    """`reshape` to tokens copies what is channels-last, and is a view of what is not."""
    return _LastThen(lambda made: made.reshape(made.shape[0], -1))


def flattened_from_channels_last() -> nn.Module:
    """A layer that flattens, likewise."""
    return _LastThen(nn.Flatten())


def cast_to_channels_last() -> nn.Module:
    """`to` channels-last returns the tensor itself where it is channels-last already."""
    return _LastThen(lambda made: made.to(memory_format=torch.channels_last))


def contiguous_layer_of_channels_last() -> nn.Module:
    """A layer of somebody's that makes its input contiguous."""
    return _LastThen(_Contiguous())


class _Contiguous(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous()


def clamped_in_vain() -> nn.Module:
    """A clamp that no value meets is a copy."""
    return Between(lambda x: _doubled(x, x.clamp(min=-1e9)))


def plus_nothing() -> nn.Module:
    """``x + 0`` is a copy."""
    return Between(lambda x: _doubled(x, x + 0))


def one_chunk() -> nn.Module:
    """`narrow` to all rows is a view."""
    return Between(lambda x: _doubled(x, x.narrow(2, 0, x.shape[2])))


def broadcast_with_a_number() -> nn.Module:
    """`broadcast_tensors` with a scalar."""
    return Between(lambda x: _doubled(x, torch.broadcast_tensors(x, torch.ones((), dtype=x.dtype))[0]))


def asked_for_its_gradient() -> nn.Module:
    """``requires_grad_()`` is the tensor itself."""
    return Between(lambda x: _doubled(x, x.requires_grad_()))


def tokens_and_back() -> nn.Module:
    """To tokens and back is a view of the map."""
    return Between(
        lambda x: _doubled(x, x.flatten(2).transpose(1, 2).transpose(1, 2).unflatten(2, x.shape[2:]))
    )


def pooled_when_it_is_one() -> nn.Module:
    """Adaptive pooling to one position of a map of one position (squeeze and excitation after the last level)."""
    return Between(
        lambda x: (
            x * last(s := x.mean((2, 3), keepdim=True), _doubled(s, functional.adaptive_avg_pool2d(s, 1)))
        )
    )


def layer_scale_on_tokens() -> nn.Module:
    """``type_as(x)`` of tokens is themselves."""
    return OnTokens(lambda x: _doubled(x, x.type_as(x)))
