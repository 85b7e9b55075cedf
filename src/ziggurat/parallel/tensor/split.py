"""Outputs that are spread over workers and look like the whole, such as the logits of very many classes.

    worker 0:  local (B, K / 2) ──┐
                                  ├──>  SplitTensor (B, K)  ──> cross-entropy: from the parts
    worker 1:  local (B, K / 2) ──┘                         ──> anything else: joined before

So whoever computes a loss need not know of workers, and the logits are not gathered for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.parallel.tensor.cross_entropy import cross_entropy
from ziggurat.parallel.tensor.operators import TensorAxis, join
from ziggurat.torch_internals.containers import tree_map_only
from ziggurat.torch_internals.tensors import as_plain_tensors, hollow_subclass

CASTS = (Tensor.to, Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16)
FACTS = (
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.__len__,
    Tensor.is_floating_point,
    Tensor.element_size,
)


class SplitTensor(torch.Tensor):
    """A tensor of which each worker has a part of one dim; its shape is that of the whole.

    Args:
        local: This worker's part: as large on each, in order of rank.
        axis: The workers.
        cut_dim: The dim that is cut.

    Attributes:
        local: As the argument; autograd works on it.
        axis: As the argument.
        cut_dim: As the argument, counted from the first.

    Communication:
        Of the cross-entropy as `cross_entropy` says; for every other operation on its values one all-gather. So all
        workers must call the same.
    """

    local: Tensor
    axis: TensorAxis
    cut_dim: int

    @staticmethod
    def __new__(cls, local: Tensor, axis: TensorAxis, cut_dim: int) -> SplitTensor:
        """Make a tensor of the whole's shape that has no memory of its own."""
        shape = list(local.shape)
        shape[cut_dim] *= axis.workers.size
        tensor = hollow_subclass(cls, shape, local.dtype, local.device, local.requires_grad)
        tensor.local, tensor.axis, tensor.cut_dim = local, axis, cut_dim % len(shape)
        return tensor

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, SplitTensor):
            if func is functional.cross_entropy and _takes_parts(first, *args[1:], **kwargs):
                return _cross_entropy(first, *args[1:], **kwargs)
            if func in CASTS:
                return SplitTensor(func(first.local, *args[1:], **kwargs), first.axis, first.cut_dim)
            if func in FACTS or func in PROPERTIES:
                with as_plain_tensors():
                    return func(*args, **kwargs)
        return func(*tree_map_only(SplitTensor, joined, args), **tree_map_only(SplitTensor, joined, kwargs))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # PyTorch's stub forgets that it is a class method
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuse what has slipped past `__torch_function__` (scripted code, operators written in C++)."""
        raise TypeError(
            f"{func} is called from compiled code on outputs that are spread over workers: join them before, with "
            "ziggurat.parallel.tensor.split.joined"
        )

    def __repr__(self) -> str:  # type: ignore[override]  # PyTorch's takes contents
        return f"SplitTensor(shape={tuple(self.shape)}, cut_dim={self.cut_dim})"


PROPERTIES = tuple(
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_meta", "is_cuda", "layout", "is_sparse")
)  # fmt: skip


def joined(tensor: Tensor) -> Tensor:
    """Return the whole of what is spread over workers, on each of them; the tensor itself, if it is plain."""
    return join(tensor.local, tensor.axis, tensor.cut_dim) if isinstance(tensor, SplitTensor) else tensor


def _takes_parts(input: SplitTensor, target: Tensor, weight: Any = None, *others: Any, **named: Any) -> bool:
    """Whether it is a cross-entropy of class numbers, without weights."""
    return input.ndim == 2 and input.cut_dim == 1 and weight is None and target.dtype == torch.int64


def _cross_entropy(
    input: SplitTensor,
    target: Tensor,
    weight: None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: Literal["none", "mean", "sum"] = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Do as ``functional.cross_entropy`` does.

    Raises:
        IndexError: If a label is none of the classes.
    """
    counts_B = target != ignore_index
    outside = target[counts_B & ((target < 0) | (target >= input.shape[1]))]
    if len(outside):
        raise IndexError(f"labels must be from 0 to {input.shape[1] - 1}: got {int(outside[0])}")
    losses_B = cross_entropy(input.local, target, input.axis, label_smoothing) * counts_B
    if reduction == "none":
        return losses_B
    return losses_B.sum() if reduction == "sum" else losses_B.sum() / counts_B.sum()
