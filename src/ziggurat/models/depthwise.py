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
from torch import Tensor, nn


class _Float32OnCpu:
    """Computes a convolution in float32 where autocast would take bf16 on a CPU (mixed into its class)."""

    def forward(self, level_BCHW: Tensor) -> Tensor:
        """Return what the convolution returns, in the type of `level_BCHW`."""
        if level_BCHW.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(level_BCHW)  # type: ignore[misc, no-any-return] # of the convolution's class
        with torch.autocast("cpu", enabled=False):
            result: Tensor = super().forward(level_BCHW.float())  # type: ignore[misc]
        return result.to(level_BCHW.dtype)


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
            kind = type(layer)
            layer.__class__ = type(f"Float32{kind.__name__}", (_Float32OnCpu, kind), {})


def _is_slow(layer: nn.Conv2d) -> bool:
    return max(layer.stride) > 1 or max(layer.kernel_size) >= 5
