"""What the most frequent functions return of tensors without memory, in a tenth of the time.

PyTorch computes the shapes of these by going through their arithmetic in Python: 1 to 8 ms a call, most of the time of a trace. Where the
answer is plain (a contiguous tensor of the input's shape, or of the size that is asked for) it is given at once; everything else,
errors among them, is PyTorch's to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.torch_internals.functions import FunctionMode, unseen


class HollowResults(FunctionMode):
    """While it is active, networks without memory are called in a fraction of the time; whatever has memory is as ever."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return on_meta(func, args, kwargs or {})


PLAIN = (Tensor, torch.nn.Parameter)
LINEAR = ("linear", "bilinear", "trilinear", "bicubic")


def on_meta(func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Call a function on tensors without memory, and return what it returns."""
    quick = QUICK.get(func) if _is_hashable(func) else None
    given: Any = args[0] if args else named.get("input")
    if quick is not None and type(given) in PLAIN:
        with unseen():
            result = quick(*args, **named) if _is_plain(given) else None
        if result is not None:
            return result
    return func(*args, **named)


def _is_plain(given: Tensor) -> bool:
    """Whether a tensor has a shape, no memory, and its numbers in standard order; and nothing casts it."""
    return (
        given.is_meta
        and given.numel() > 0
        and _is_in_standard_order(given)
        and not torch.is_autocast_enabled("cpu")
        and not torch.is_autocast_enabled("cuda")
    )


def _is_in_standard_order(tensor: Tensor) -> bool:
    """Whether a tensor's strides are those of a new one of its shape, also of dims of one row."""
    step = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if stride != step:
            return False
        step *= max(size, 1)
    return True


def _is_hashable(func: Any) -> bool:
    return type(func).__hash__ is not None


def _like(input: Tensor, *others: Tensor | None) -> Tensor:
    """Return a tensor like the input, whose gradient reaches the input and the other tensors."""
    return _joined(input.clone(), others)


def _joined(out: Tensor, others: Iterable[Tensor | None]) -> Tensor:
    """Return a new tensor, whose gradient now reaches the other tensors, too."""
    for one in others:
        if one is not None and one.requires_grad and torch.is_grad_enabled():
            out.add_(one.flatten()[0])  # which is not gone through in Python, as a sum is
    return out


def _fit(input: Tensor, dim: int, *others: Tensor | None) -> bool:
    """Whether tensors have a number for each channel of the input, and its type."""
    sizes = (input.shape[dim],)
    return all(one is None or (one.shape == sizes and one.dtype == input.dtype) for one in others)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    fits = input.dim() >= 2 and _fit(input, 1, running_mean, running_var, weight, bias)
    one_value = training and fits and input.numel() <= input.shape[1]
    if not fits or one_value or not (training or running_mean is not None) or eps < 0:
        return None
    return _like(input, weight, bias)


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    fits = input.dim() >= 2 and _fit(input, 1, weight, bias) and input.shape[1] % num_groups == 0
    if not fits or input.numel() <= num_groups * input.shape[0]:
        return None
    return _like(input, weight, bias)


def _layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    shape = tuple(normalized_shape)
    fits = all(
        one is None or (tuple(one.shape) == shape and one.dtype == input.dtype) for one in (weight, bias)
    )
    if not shape or not fits or tuple(input.shape[-len(shape) :]) != shape:
        return None
    return _like(input, weight, bias)


def _rectified(input: Tensor, inplace: bool = False) -> Tensor | None:
    return None if inplace or not input.is_floating_point() else input.clone()


def _activated(input: Tensor, **named: Any) -> Tensor | None:
    return input.clone() if input.is_floating_point() and not named else None


def _gelu(input: Tensor, *, approximate: str = "none", **named: Any) -> Tensor | None:
    return _activated(input, **named) if approximate in ("none", "tanh") else None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if weight.dim() != 2 or weight.shape[1] != input.shape[-1] or not weight.shape[0]:
        return None
    sizes = (weight.shape[0],)
    if any(
        type(one) not in PLAIN or one.dtype != input.dtype or not one.is_meta
        for one in (weight, bias)
        if one is not None
    ):
        return None
    if input.dim() < 2 or not input.is_floating_point() or (bias is not None and bias.shape != sizes):
        return None
    out = (
        input.narrow(-1, 0, 1).expand(*input.shape[:-1], *sizes).clone(memory_format=torch.contiguous_format)
    )
    return _joined(out, (weight, bias))


def _sum(input: Tensor, other: Any, *more: Any, **named: Any) -> Tensor | None:
    return input.clone().add_(other) if not more and not named and _is_alike(input, other) else None


def _product(input: Tensor, other: Any, **named: Any) -> Tensor | None:
    return input.clone().mul_(other) if not named and _is_alike(input, other) else None


def _is_alike(input: Tensor, other: Any) -> bool:
    """Whether another tensor is like one of floating point numbers, so that their sum is, too; or a number that changes no type."""
    if not input.is_floating_point():
        return False
    if type(other) in PLAIN:
        alike = other.shape == input.shape and other.dtype == input.dtype and other.is_meta
        return bool(alike) and _is_in_standard_order(other)
    return type(other) in (int, float)


def _interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    if mode not in LINEAR or (mode == "linear", mode in ("bilinear", "bicubic"), mode == "trilinear") != (
        input.dim() == 3, input.dim() == 4, input.dim() == 5
    ):  # fmt: skip
        return None
    return functional.interpolate(
        input, size, scale_factor, recompute_scale_factor=recompute_scale_factor
    )  # to the nearest


QUICK: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.batch_norm: _batch_norm,
    functional.group_norm: _group_norm,
    functional.layer_norm: _layer_norm,
    functional.interpolate: _interpolate,
    functional.relu: _rectified,
    torch.relu: _activated,
    Tensor.relu: _activated,
    torch.sigmoid: _activated,
    Tensor.sigmoid: _activated,
    functional.silu: _rectified,
    functional.gelu: _gelu,
    functional.linear: _linear,
    torch.add: _sum,
    Tensor.add: _sum,
    torch.mul: _product,
    Tensor.mul: _product,
}
