"""Sums and largest values over the workers of an axis, with their adjoints.

The gradient of what every worker has is a sum of parts, see `exchange`: the adjoint of a sum over workers is a sum over workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.collectives.communicator import Operation
from ziggurat.parallel.spatial.axis import Axis


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return reduce_over(part, axis)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return reduce_over(gradients[0], ctx.axis), None


def reduce_over(part: Tensor, axis: Axis, operation: Operation = "sum") -> Tensor:
    """Return the sum (or another reduction) of a tensor over the workers of an axis, without autograd.

    Communication:
        One all-reduce.
    """
    total = part.detach().clone(memory_format=torch.contiguous_format)
    numbers = torch.view_as_real(total) if total.is_complex() else total  # no backend adds complex ones
    axis.workers.start_add_up(numbers, operation).wait(axis.traffic.clock)
    axis.traffic.bytes_sent += total.numel() * total.element_size()
    axis.traffic.messages += 1
    return total


def start_sum(part: Tensor, axes: Sequence[Axis]) -> Callable[[], Tensor]:
    """Begin to sum a tensor over the workers of axes; call what is returned for the sum.

    What is computed in between hides that workers do not come at the same instant.

    Communication:
        One all-reduce for each axis, the first of them at once.
    """
    if not axes:
        return lambda: part
    total = part.detach().clone(memory_format=torch.contiguous_format)
    first, *others = axes
    request = first.workers.start_add_up(total)

    def finish() -> Tensor:
        request.wait(first.traffic.clock)
        first.traffic.bytes_sent += total.numel() * total.element_size()
        first.traffic.messages += 1
        found = total
        for axis in others:
            found = reduce_over(found, axis)
        return found

    return finish


def sum_over(part: Tensor, axis: Axis) -> Tensor:
    """Return the sum of a tensor over the workers of an axis.

    Communication:
        One all-reduce, and one of the gradient (whose parts add up, too).
    """
    total: Tensor = _Sum.apply(part, axis)
    return total


class _Largest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, dims: tuple[int, ...], axes: tuple[Axis, ...]) -> Tensor:
        largest = values.amax(dims, keepdim=True)
        for axis in axes:
            largest = reduce_over(largest, axis, "max")
        ctx.dims, ctx.axes = dims, axes
        ctx.save_for_backward(values, largest)
        return largest

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        values, largest = ctx.saved_tensors
        ties = values == largest
        count, gradient = ties.sum(ctx.dims, keepdim=True).to(values.dtype), gradients[0]
        for axis in ctx.axes:
            count, gradient = reduce_over(count, axis), reduce_over(gradient, axis)
        return ties * (gradient / count), None, None


def largest_over(values: Tensor, dims: tuple[int, ...], axes: tuple[Axis, ...]) -> Tensor:
    """Return the largest value over local dims and over the workers of axes; dims are kept with size 1.

    The gradient is divided evenly among equal values, as PyTorch's ``amax`` does.

    Communication:
        One all-reduce for each axis; two in backward.
    """
    largest: Tensor = _Largest.apply(values, dims, axes)
    return largest
