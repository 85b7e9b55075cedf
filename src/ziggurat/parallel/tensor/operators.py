"""What crosses the workers of a tensor axis: three functions, each with the adjoint of what it does as its gradient.

    forward                              backward
    copy_in   the tensor as it is        the sum of all workers' gradients
    sum_out   the sum over all workers   the gradient as it is
    join      the parts, side by side    this worker's part of the gradient

Between `copy_in` and `sum_out` every worker computes a part; outside, all compute the same: every loss is the whole one.

References:
    Shoeybi et al., Megatron-LM, 2019, section 3 (f is `copy_in`, g is `sum_out`). https://arxiv.org/abs/1909.08053
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.collectives.communicator import Operation
from ziggurat.parallel.collectives.workers import Workers


class TensorAxis:
    """The workers of a tensor axis, and what this one has sent to the others.

    Args:
        workers: Of the axis.

    Attributes:
        bytes_sent: As a ring sends them, forward and backward.
    """

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.bytes_sent = 0

    def sum(self, part: Tensor, operation: Operation = "sum") -> Tensor:
        """Return the sum (or the maximum) over all workers, the same on each, in the part's order of memory (all have the same).

        Communication:
            One all-reduce: ``2 (W - 1) / W`` of the tensor's bytes sent by each worker.
        """
        size = self.workers.size
        if size == 1:
            return part
        total = part.detach().clone()  # dense, in the order of memory of the part
        self.workers.add_up(total.as_strided((total.numel(),), (1,)), operation)
        self.bytes_sent += 2 * (size - 1) * total.numel() * total.element_size() // size
        return total

    def join(self, part: Tensor, dim: int) -> Tensor:
        """Return the parts of all workers, of one shape, side by side.

        Communication:
            One all-gather: ``W - 1`` times the part's bytes sent by each worker.
        """
        size = self.workers.size
        if size == 1:
            return part
        own = part.detach().contiguous()
        parts = self.workers.all_gather(own).view(size, *own.shape)
        self.bytes_sent += (size - 1) * own.numel() * own.element_size()
        return torch.cat(parts.unbind(), dim)

    def collect(self, part: Tensor, dim: int, owner: int) -> Tensor | None:
        """Return the parts of all workers, of one shape, side by side, on one of the workers; elsewhere None.

        Communication:
            One gather: the part's bytes sent by each other worker.
        """
        own = part.detach().contiguous()
        if self.workers.size == 1:
            return own
        parts = self.workers.gather_to(own, owner)
        self.bytes_sent += own.numel() * own.element_size() if parts is None else 0
        return torch.cat(parts, dim) if parts is not None else None

    def part(self, whole: Tensor, dim: int) -> Tensor:
        """Return this worker's part of a tensor whose extent the number of workers divides."""
        return whole.chunk(self.workers.size, dim)[self.workers.rank]


class _CopyIn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: TensorAxis) -> Tensor:
        ctx.axis = axis
        return x.detach()  # `view_as` would not keep the strides of dims of one row, by which a convolution chooses its order of memory

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.axis.sum(gradients[0]), None


class _SumOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, axis: TensorAxis) -> Tensor:
        return _own(axis.sum(part), part)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, axis: TensorAxis, dim: int) -> Tensor:
        ctx.axis, ctx.dim = axis, dim
        return _own(axis.join(part, dim), part)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.axis.part(gradients[0], ctx.dim).contiguous(), None, None


def _own(result: Tensor, given: Tensor) -> Tensor:
    """Return a result that autograd takes for the function's own: it is no view, so the network may change it in place."""
    return result.detach() if result is given else result


def copy_in(x: Tensor, axis: TensorAxis) -> Tensor:
    """Return a tensor that all workers have, as the input of their parts.

    Placement:
        Before and after, every worker has the whole; of its gradient each has a summand before, and all have the sum after.

    Communication:
        Backward: one all-reduce of the gradient.
    """
    result: Tensor = _CopyIn.apply(x, axis)
    return result


def sum_out(part: Tensor, axis: TensorAxis) -> Tensor:
    """Return the sum of the tensors of all workers.

    Placement:
        Before, each worker has a summand; after, all have the sum, and its whole gradient.

    Communication:
        Forward: one all-reduce of the tensor.
    """
    result: Tensor = _SumOut.apply(part, axis)
    return result


def join(part: Tensor, axis: TensorAxis, dim: int) -> Tensor:
    """Return the parts of all workers, side by side.

    Placement:
        Before, each worker has a part; after, all have the whole, and its whole gradient.

    Communication:
        Forward: one all-gather of the parts.
    """
    result: Tensor = _Join.apply(part, axis, dim)
    return result
