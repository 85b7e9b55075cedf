"""Depthwise convolutions under bf16 autocast on CPUs: some are computed in float32, which is faster.

oneDNN has no fast bf16 backward pass for depthwise convolutions that have a stride or a window of 5 or more. Measured
on one core (two images, channels-last, forward and backward, milliseconds):

| channels, window, stride, rows | bf16 | float32 |
|---|---|---|
| 144, 5, 2, 100 | 110 | 19 |
| 96, 3, 2, 200 | 71 | 39 |
| 240, 5, 1, 50 | 37 | 17 |
| 144, 3, 1, 100 | 14 | 17 |

The result is rounded to the input's type, so that the layers around it stay in bf16.
"""

from __future__ import annotations

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn


def _is_bf16_on_cpu(level_BCHW: Tensor) -> bool:
    return level_BCHW.device.type == "cpu" and torch.is_autocast_enabled("cpu")


class Float32Conv2d(nn.Conv2d):
    """A convolution that computes in float32 where autocast would take bf16 on a CPU.

    Attributes:
        keeps_channels_apart: A depthwise one computes each channel by itself (not every class of this kind does).
    """

    keeps_channels_apart = True

    def forward(self, level_BCHW: Tensor) -> Tensor:
        """Return what the convolution returns, in the type of `level_BCHW`."""
        if not _is_bf16_on_cpu(level_BCHW):
            return super().forward(level_BCHW)
        with torch.autocast("cpu", enabled=False):
            return super().forward(level_BCHW.float()).to(level_BCHW.dtype)


class Float32Conv2dSame(Conv2dSame):
    """The same for timm's convolution with the padding of TensorFlow."""

    keeps_channels_apart = True

    def forward(self, level_BCHW: Tensor) -> Tensor:
        """Return what the convolution returns, in the type of `level_BCHW`."""
        result: Tensor
        if not _is_bf16_on_cpu(level_BCHW):
            result = super().forward(level_BCHW)
            return result
        with torch.autocast("cpu", enabled=False):
            result = super().forward(level_BCHW.float())
        return result.to(level_BCHW.dtype)


FLOAT32_CLASSES: dict[type[nn.Conv2d], type[nn.Conv2d]] = {
    nn.Conv2d: Float32Conv2d,
    Conv2dSame: Float32Conv2dSame,
}


def speed_up_depthwise(model: nn.Module) -> None:
    """Let the depthwise convolutions of a model that are slow in bf16 on CPUs run in float32 there.

    Names, parameters and results in other types stay the same; only the class of these layers changes.

    Args:
        model: Changed in place.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(8, 8, 5, groups=8), nn.Conv2d(8, 8, 5))
        >>> speed_up_depthwise(model)
        >>> [type(layer).__name__ for layer in model]
        ['Float32Conv2d', 'Conv2d']
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1 and _is_slow(layer):
            layer.__class__ = FLOAT32_CLASSES.get(type(layer), type(layer))


def _is_slow(layer: nn.Conv2d) -> bool:
    return max(layer.stride) > 1 or max(layer.kernel_size) >= 5
