"""Layers of which each worker has a part, under the names that the whole ones had.

x ──copy_in──> ColumnLayer ──> norm, activation ──> RowLayer ──sum_out──> + bias     (x and the result: on every worker)
               some outputs    of these channels    the same inputs
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ziggurat.parallel.tensor.operators import TensorAxis, copy_in, join, sum_out

CONVOLUTIONS: dict[type, Callable[..., Tensor]] = {
    nn.Conv1d: functional.conv1d,
    nn.Conv2d: functional.conv2d,
    nn.Conv3d: functional.conv3d,
}


class ColumnLayer(nn.Module):
    """The outputs of a linear layer or convolution that are this worker's.

    Args:
        layer: The whole one, with one group.
        axis: The workers; their number divides the outputs.
        joined: Whether every worker gets the outputs of all.
    """

    def __init__(self, layer: nn.Module, axis: TensorAxis, joined: bool = False) -> None:
        super().__init__()
        self.weight = _part_of(layer.weight, axis, 0)
        self.bias = _part_of(layer.bias, axis, 0) if isinstance(layer.bias, Tensor) else None
        self.operation, self.axis, self.joined = _operation_of(layer), axis, joined
        self.channel_dim = -1 if type(layer) is nn.Linear else 1

    def forward(self, x: Tensor) -> Tensor:
        """Return this worker's outputs, or all."""
        outputs = self.operation(copy_in(x, self.axis), self.weight, self.bias)
        return join(outputs, self.axis, self.channel_dim) if self.joined else outputs


class RowLayer(nn.Module):
    """A linear layer or convolution whose inputs are spread over workers; its bias is on each of them.

    Args: as `ColumnLayer` has them; the number of workers divides the inputs.
    """

    def __init__(self, layer: nn.Module, axis: TensorAxis) -> None:
        super().__init__()
        self.weight = _part_of(layer.weight, axis, 1)
        self.bias: Any = layer.bias
        self.operation, self.axis = _operation_of(layer), axis
        self.after = 0 if type(layer) is nn.Linear else self.weight.dim() - 2  # dims after the channels

    def forward(self, x_part: Tensor) -> Tensor:
        """Return the whole outputs."""
        total = sum_out(self.operation(x_part, self.weight, None), self.axis)
        return total if self.bias is None else total + self.bias.view(-1, *[1] * self.after)


class PartDropout(nn.Module):
    """A dropout of this worker's features, which draws the random numbers of all.

    Args:
        layer: The whole one.
        axis: The workers.
    """

    def __init__(self, layer: nn.Dropout, axis: TensorAxis) -> None:
        super().__init__()
        self.p, self.axis = layer.p, axis

    def forward(self, x_part: Tensor) -> Tensor:
        """Drop the features that one worker would drop."""
        if not self.training or self.p == 0:
            return x_part
        whole = x_part.new_ones((*x_part.shape[:-1], x_part.shape[-1] * self.axis.workers.size))
        return x_part * self.axis.part(functional.dropout(whole, self.p), -1)


def cut_between(layer: nn.Module, axis: TensorAxis) -> None:
    """Leave a layer that computes each channel by itself those of this worker, in place.

    Args:
        layer: A batch norm, a group norm whose groups the number of workers divides, or a depthwise convolution.
        axis: The workers.
    """
    for places in (layer._parameters, layer._buffers):
        for key, tensor in places.items():
            if tensor is not None and tensor.dim():
                places[key] = _part_of(tensor, axis, 0)
    for attribute in ("num_features", "num_groups", "num_channels", "groups", "in_channels", "out_channels"):
        if hasattr(layer, attribute):
            setattr(layer, attribute, getattr(layer, attribute) // axis.workers.size)


def _part_of(tensor: Any, axis: TensorAxis, dim: int) -> Any:
    part = axis.part(tensor.detach(), dim).clone(memory_format=torch.contiguous_format)
    return nn.Parameter(part, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else part


def _operation_of(layer: Any) -> Callable[..., Tensor]:
    if type(layer) is nn.Linear:
        return functional.linear
    return partial(
        CONVOLUTIONS[type(layer)], stride=layer.stride, padding=layer.padding, dilation=layer.dilation
    )
