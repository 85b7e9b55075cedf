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

from ziggurat.parallel.spatial import SpatialTensor, band_of
from ziggurat.parallel.spatial.memory import put
from ziggurat.parallel.spatial.strides import in_order
from ziggurat.parallel.tensor.operators import TensorAxis, copy_in, sum_out
from ziggurat.parallel.tensor.split import SplitTensor
from ziggurat.torch_internals.convolutions import mended
from ziggurat.torch_internals.modules import own_states, replace_state

CONVOLUTIONS: dict[type, Callable[..., Tensor]] = {
    nn.Conv1d: mended(functional.conv1d),
    nn.Conv2d: mended(functional.conv2d),
    nn.Conv3d: mended(functional.conv3d),
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

    def forward(self, input: Tensor) -> Tensor:
        """Return this worker's outputs."""
        outputs = self.operation(_of_part(copy_in, input, self.axis), self.weight, self.bias)
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

    def forward(self, input: Tensor) -> Tensor:
        """Return the whole outputs."""
        total = _of_part(sum_out, self.operation(input, self.weight, None), self.axis)
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

    def forward(self, input: Tensor) -> Tensor:
        """Drop the features that one worker would drop."""
        if not self.training or self.p == 0:
            return input
        kept = functional.dropout(_ones_of_all(input, self.channel_dim, self.axis), self.p)
        return input * self.axis.part(kept, self.channel_dim)


def _ones_of_all(x_part: Tensor, channel_dim: int, axis: TensorAxis) -> Tensor:
    """Return ones for the features of all workers, in the order of memory in which one worker would have these."""
    shape, channels = list(x_part.shape), channel_dim % x_part.dim()
    shape[channels] *= axis.workers.size
    # of a part of one channel, channels that lie together have the stride of what lies beside them
    fastest_first = sorted(range(len(shape)), key=lambda d: (x_part.stride(d), d != channels, -d))
    return torch.empty_strided(
        shape, in_order(shape, fastest_first), dtype=x_part.dtype, device=x_part.device
    ).fill_(1)


def _of_part(function: Callable[[Tensor, TensorAxis], Tensor], x: Tensor, axis: TensorAxis) -> Tensor:
    """Apply a function of the axis to what this worker has of an image: all of it, or its band (which all of the axis share)."""
    if not isinstance(x, SpatialTensor):
        return function(x, axis)
    result = SpatialTensor(function(band_of(x), axis), x.dims, x.mesh)
    put(result, torch.empty_like(x.meta))
    return result


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
    """Return this worker's part of a whole tensor or parameter: dense memory of its own, in the whole's order."""
    part = axis.part(tensor.detach(), dim).clone()
    return nn.Parameter(part, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else part


def _operation_of(layer: Any) -> Callable[..., Tensor]:
    if type(layer) is nn.Linear:
        return functional.linear
    return partial(
        CONVOLUTIONS[type(layer)], stride=layer.stride, padding=layer.padding, dilation=layer.dilation
    )
