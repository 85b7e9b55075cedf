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

from ziggurat.parallel.tensor.operators import TensorAxis, copy_in, sum_out
from ziggurat.parallel.tensor.split import SplitTensor
from ziggurat.torch_internals.modules import own_states, replace_state

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
        is_last: Whether the network returns the outputs: they look like the whole then.
    """

    def __init__(self, layer: nn.Module, axis: TensorAxis, is_last: bool = False) -> None:
        super().__init__()
        self.weight = part_of(layer.weight, axis, 0)
        self.bias = part_of(layer.bias, axis, 0) if isinstance(layer.bias, Tensor) else None
        self.operation, self.axis, self.is_last = _operation_of(layer), axis, is_last
        self.channel_dim = -1 if type(layer) is nn.Linear else 1

    def forward(self, x: Tensor) -> Tensor:
        """Return this worker's outputs."""
        outputs = self.operation(copy_in(x, self.axis), self.weight, self.bias)
        return SplitTensor(outputs, self.axis, self.channel_dim) if self.is_last else outputs


class RowLayer(nn.Module):
    """A linear layer or convolution whose inputs are spread over workers; its bias is on each of them.

    Args: as `ColumnLayer` has them; the number of workers divides the inputs.
    """

    def __init__(self, layer: nn.Module, axis: TensorAxis) -> None:
        super().__init__()
        self.weight = part_of(layer.weight, axis, 1)
        self.bias: Any = layer.bias
        self.operation, self.axis = _operation_of(layer), axis
        self.after = 0 if type(layer) is nn.Linear else self.weight.dim() - 2  # dims after the channels

    def forward(self, x_part: Tensor) -> Tensor:
        """Return the whole outputs."""
        total: Tensor = sum_out(self.operation(x_part, self.weight, None), self.axis)
        if self.bias is None:
            return total
        bias: Tensor = self.bias.to(total.dtype)  # under autocast it is wider
        return total + bias.view(-1, *[1] * self.after)


class PartDropout(nn.Module):
    """A dropout of this worker's features, which draws the random numbers of all.

    Args:
        layer: The whole one.
        axis: The workers.
        channel_dim: The dim of the features.
    """

    def __init__(self, layer: nn.Dropout, axis: TensorAxis, channel_dim: int = -1) -> None:
        super().__init__()
        self.p, self.axis, self.channel_dim = layer.p, axis, channel_dim

    def forward(self, x_part: Tensor) -> Tensor:
        """Drop the features that one worker would drop."""
        if not self.training or self.p == 0:
            return x_part
        shape = list(x_part.shape)
        shape[self.channel_dim] *= self.axis.workers.size
        kept = functional.dropout(_in_order_of(x_part, x_part.new_ones(shape)), self.p)
        return x_part * self.axis.part(kept, self.channel_dim)


def cut_between(layer: nn.Module, axis: TensorAxis) -> None:
    """Leave a layer that computes each channel by itself those of this worker, in place.

    Args:
        layer: A batch norm (also a frozen one), a group norm whose groups the number of workers divides, or a depthwise
            convolution.
        axis: The workers.
    """
    for key, tensor in own_states(layer):
        if tensor.dim():
            replace_state(layer, key, part_of(tensor, axis, 0))
    for attribute in (
        "num_features",
        "num_groups",
        "num_channels",
        "num_parameters",
        "groups",
        "in_channels",
        "out_channels",
    ):
        if hasattr(layer, attribute):
            setattr(layer, attribute, getattr(layer, attribute) // axis.workers.size)


def part_of(tensor: Any, axis: TensorAxis, dim: int) -> Any:
    """Return this worker's part of a whole tensor or parameter: memory of its own, in the whole's memory format."""
    whole = tensor.detach()
    part = _in_order_of(whole, axis.part(whole, dim).clone(memory_format=torch.contiguous_format))
    return nn.Parameter(part, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else part


def _in_order_of(known: Tensor, tensor: Tensor) -> Tensor:
    """Return a tensor of as many dims in channels-last, where a known one is."""
    if known.dim() != 4:
        return tensor
    channels_last = torch.empty_like(known, device="meta", memory_format=torch.channels_last)
    is_last = known.stride() == channels_last.stride()
    return tensor.contiguous(memory_format=torch.channels_last) if is_last else tensor


def _operation_of(layer: Any) -> Callable[..., Tensor]:
    if type(layer) is nn.Linear:
        return functional.linear
    return partial(
        CONVOLUTIONS[type(layer)], stride=layer.stride, padding=layer.padding, dilation=layer.dilation
    )
