"""The gradients of batch norm and instance norm on the CPU, which PyTorch 2.14 gets wrong in one condition.

Its backward has a fast path that reads memory in the order of the input. It is taken where input and gradient *suggest* the
same memory format, and each is contiguous in some. Where a dim has one row, a tensor may be contiguous with channels last, and
suggest that they come first: then the fast path reads it in the wrong order, and what it returns are gradients of other
positions. ``docs/upstream/batch_norm_cpu.md`` has it with a script.

    input            gradient         suggested        path
    C first          C first          same             fast, right
    C last           C last           same             fast, right
    C first          C last           different        slow, right
    C first          C last, odd      same             fast, WRONG        odd: suggests C first
    C last, odd      C first          same             fast, WRONG
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ziggurat.torch_internals.norm_calls import after_norms

PLAIN = (Tensor, nn.Parameter)

Order = Literal["first", "last", "odd", "none"]


@contextmanager
def right_norm_gradients() -> Iterator[None]:
    """While a block runs, batch norms and instance norms on the CPU are given gradients in an order that they read right.

    Nothing else changes: where PyTorch is right, the bits are PyTorch's. Norms of scripted and compiled code are not seen.
    It is for the whole process, where it does no harm.
    """
    with after_norms(_mend):
        yield


def _mend(name: str, result: Any, given: Tensor) -> None:
    if name == "instance_norm":
        mend_instance_norm(result, given)
    else:
        mend_batch_norm(result, given)


def mend_batch_norm(result: Any, given: Tensor) -> None:
    """Let the gradient of a batch norm's result be reordered where its kernel would read it in the wrong order.

    Args:
        result: What the norm has returned.
        given: Its input, shape ``(B, C, *spatial)``.
    """
    out = result[0] if isinstance(result, tuple) else result
    if type(given) not in PLAIN or out.grad_fn is None or 1 not in given.shape:
        return  # without a dim of one row, each tensor suggests what it is
    if (order := order_of(given)) in ("first", "odd"):
        out.grad_fn.register_prehook(partial(_reorder, order, None))


def mend_instance_norm(result: Tensor, given: Tensor) -> None:
    """Do the same for an instance norm: a batch norm of one image, whose channels are those of all images.

    Args:
        result: What the norm has returned.
        given: Its input, shape ``(B, C, *spatial)``.
    """
    if type(given) not in PLAIN or result.grad_fn is None or given.device.type != "cpu" or given.dim() < 3:
        return
    shape = (1, given.shape[0] * given.shape[1], *given.shape[2:])
    result.grad_fn.register_prehook(partial(_reorder, "first", shape))


def _reorder(
    of_input: Order, shape: Sequence[int] | None, gradients: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...] | None:
    """Return the gradients that a norm's backward is given, the first in another order where that is needed.

    Args:
        of_input: The order of the batch norm's input.
        shape: What the gradient is reshaped to before, which may change strides of dims of one row; None where it is not.
        gradients: Of all that the norm returns.
    """
    gradient, *others = gradients
    if gradient is None:
        return None
    order = order_of(gradient if shape is None else gradient.reshape(shape))
    if (of_input, order) == ("first", "odd"):
        return gradient.contiguous(), *others
    if (of_input, order) == ("odd", "first"):
        return gradient.contiguous(memory_format=_channels_last(gradient)), *others
    return None


def order_of(tensor: Tensor) -> Order:
    """Return in which order the kernels for the CPU read a tensor ``(B, C, *spatial)``.

    Returns:
        ``first``: channels first. ``last``: channels last. ``odd``: channels last, where PyTorch suggests that they come first.
        ``none``: in no order that a fast path knows.
    """
    if tensor.device.type != "cpu" or tensor.dim() not in (4, 5):
        return "none"
    if tensor.is_contiguous():
        return "first"
    if not tensor.is_contiguous(memory_format=_channels_last(tensor)):
        return "none"
    return "last" if _suggests_channels_last(tensor.shape, tensor.stride()) else "odd"


def _channels_last(tensor: Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d


def _suggests_channels_last(sizes: Sequence[int], strides: Sequence[int]) -> bool:
    """Return what ``suggest_memory_format`` of PyTorch's C++ says, which Python cannot ask.

    Why so: dims of one row take part, though their strides mean nothing.
    """
    least = 0
    for dim in (1, *range(len(sizes) - 1, 1, -1), 0):
        if strides[dim] < least or (dim == 0 and least == strides[1]):
            return False
        least = strides[dim] * sizes[dim]
    return strides[1] != 0
