"""Kernels that PyTorch's layers call, as operators: what a band needs of forward and backward apart from each other.

Why: a custom autograd function that keeps its band and halos apart has to compute the gradient of a convolution (a norm, a
pooling) from what it has put together again; `torch.autograd.grad` would run forward a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def convolution_gradients(
    gradient: Tensor, rows: Tensor, weight: Tensor, bias_sizes: list[int] | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
    mask: list[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Return the gradients of input, weight and bias that the mask asks for; arguments as ``torch.convolution`` has them."""
    result: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
        gradient,
        rows,
        weight,
        bias_sizes,
        stride,
        padding,
        dilation,
        transposed,
        output_padding,
        groups,
        mask,
    )
    return result


def batch_norm_gradients(
    gradient: Tensor, band: Tensor, weight: Tensor | None, mean: Tensor, variance: Tensor, eps: float, mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of input, weight and bias that the mask asks for, the moments being constants.

    Args:
        gradient: Of the output.
        band: The input.
        weight: Of each channel.
        mean: As it was used.
        variance: As it was used.
        eps: Likewise.
        mask: Which of the three.
    """
    given = gradient, band, weight, mean, variance, None, None, False, eps
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(*given, mask)
    return result


def channel_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance (over the count) of each channel of ``(B, C, *spatial)`` on the CPU, in float32 at least.

    Why: one pass in the memory order that the values have, without a copy of them in float32; it is what the CPU's batch
    norm calls itself.
    """
    precise = torch.promote_types(values.dtype, torch.float32)
    mean = torch.zeros(values.shape[1], dtype=precise, device=values.device)
    found: tuple[Tensor, Tensor] = torch.batch_norm_update_stats(values, mean, torch.ones_like(mean), 0.0)
    return found


def max_pool2d(values: Tensor, *sizes: Any) -> tuple[Tensor, Tensor]:
    """Return largest values and their places; kernel, stride, padding, dilation, ceil_mode as in ``torch.max_pool2d``."""
    result: tuple[Tensor, Tensor] = torch.ops.aten.max_pool2d_with_indices(values, *sizes)
    return result


def max_pool2d_gradient(gradient: Tensor, values: Tensor, indices: Tensor, *sizes: Any) -> Tensor:
    """Return the gradient of what `max_pool2d` was given, from that of its result and the places."""
    result: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(gradient, values, *sizes, indices)
    return result
