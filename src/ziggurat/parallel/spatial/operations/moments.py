"""Sums, means and extremes: local over the dims that are whole, and one small exchange where a dim is cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.parallel.spatial.layout import Dims, Factor, is_cut, size_of
from ziggurat.parallel.spatial.sums import largest_over
from ziggurat.parallel.spatial.table import Call, operation, wrap
from ziggurat.parallel.spatial.tensor import SpatialTensor, add_up


def normal_dims(dim: Any, num_dims: int) -> tuple[int, ...]:
    """Return dims counted from the front, rising; all of them for None."""
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return tuple(range(num_dims))
    given = (dim,) if isinstance(dim, int) else tuple(dim)
    return tuple(sorted(d % num_dims for d in given))


def reduced(x: SpatialTensor, dims: Sequence[int], keepdim: bool) -> Dims:
    """Return the layout that is left; a dim that is kept still knows which axis could cut it."""
    kept = []
    for d, dim in enumerate(x.dims):
        if d not in dims:
            kept.append(dim)
        elif keepdim:
            kept.append((Factor(1, dim[0].axis if len(dim) == 1 else None),))
    return tuple(kept)


def axes_of(x: SpatialTensor, dims: Sequence[int]) -> list[int]:
    """Return the axes that cut some of the dims."""
    return [f.axis for d in dims for f in x.dims[d] if f.is_cut and f.axis is not None]


def total(
    x: SpatialTensor, dims: Sequence[int], keepdim: bool, dtype: torch.dtype | None = None
) -> SpatialTensor:
    """Return the sum over dims."""
    local = x.local.sum(tuple(dims), keepdim=keepdim, dtype=dtype) if dims else x.local
    return SpatialTensor(add_up(local, x.mesh, axes_of(x, dims)), reduced(x, dims, keepdim), x.mesh)


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype


def _arguments(call: Call) -> tuple[SpatialTensor, tuple[int, ...], bool, dict[str, Any]]:
    bound = call.bind("input dim keepdim", dim=None, keepdim=False)
    if "axis" in bound:
        bound["dim"] = bound["axis"]
    x: SpatialTensor = bound["input"]
    return x, normal_dims(bound["dim"], len(x.dims)), bool(bound["keepdim"]), bound


@operation("moments", "sum")
def _sum(call: Call) -> Any:
    bound = call.bind("input dim keepdim", dim=None, keepdim=False, dtype=None)
    x = bound["input"]
    return total(x, normal_dims(bound["dim"], len(x.dims)), bound["keepdim"], bound["dtype"])


@operation("moments", "mean")
def _mean(call: Call) -> Any:
    x, dims, keepdim, bound = _arguments(call)
    dtype = bound.get("dtype") or x.local.dtype
    count = math.prod(size_of(x.dims[d]) for d in dims)
    summed = total(x, dims, keepdim, _precise(dtype))
    return wrap((summed.local / count).to(dtype), summed)


def _root(variance: Tensor) -> Tensor:
    """Return the deviation; where it is zero its gradient is, too, as PyTorch has it, and no division by zero."""
    is_zero = variance <= 0
    root = torch.where(is_zero, 1.0, variance).sqrt()
    return torch.where(is_zero, 0.0, root)


@operation("moments", "var", "std")
def _var(call: Call) -> Any:
    x, dims, keepdim, correction = _var_arguments(call)
    variance, _ = variance_and_mean(x, dims, keepdim, correction)
    return wrap(_root(variance.local), variance) if call.name == "std" else variance


@operation("moments", "var_mean", "std_mean")
def _var_mean(call: Call) -> Any:
    x, dims, keepdim, correction = _var_arguments(call)
    variance, mean = variance_and_mean(x, dims, keepdim, correction)
    return (wrap(_root(variance.local), variance) if call.name == "std_mean" else variance), mean


def _var_arguments(call: Call) -> tuple[SpatialTensor, tuple[int, ...], bool, float]:
    bound = call.bind("input dim unbiased keepdim", dim=None, unbiased=True, keepdim=False)
    x = bound["input"]
    if x.is_complex():
        raise call.unsupported(
            "deviations of complex numbers are not computed", "take those of torch.view_as_real(x)"
        )
    if isinstance(bound["dim"], bool):  # var(unbiased)
        bound["dim"], bound["unbiased"] = None, bound["dim"]
    correction = bound.get("correction", 1.0 if bound["unbiased"] else 0.0)
    return x, normal_dims(bound["dim"], len(x.dims)), bound["keepdim"], correction


def variance_and_mean(
    x: SpatialTensor, dims: Sequence[int], keepdim: bool, correction: float
) -> tuple[SpatialTensor, SpatialTensor]:
    """Return variance and mean, in two passes: deviations are from the mean of the whole."""
    count = math.prod(size_of(x.dims[d]) for d in dims)
    dtype = x.local.dtype
    values = x.local.to(_precise(dtype))
    mean = add_up(values.sum(tuple(dims), keepdim=True), x.mesh, axes_of(x, dims)) / count
    squares = add_up((values - mean).square().sum(tuple(dims), keepdim=True), x.mesh, axes_of(x, dims))
    variance = squares / max(count - correction, 0)
    if not keepdim:
        mean, variance = mean.squeeze(tuple(dims)), variance.squeeze(tuple(dims))
    layout = reduced(x, dims, keepdim)
    return SpatialTensor(variance.to(dtype), layout, x.mesh), SpatialTensor(mean.to(dtype), layout, x.mesh)


@operation("moments", "amax")
def _amax(call: Call) -> Any:
    x, dims, keepdim, _ = _arguments(call)
    return largest(x, dims, keepdim)


@operation("moments", "amin")
def _amin(call: Call) -> Any:
    x, dims, keepdim, _ = _arguments(call)
    return smallest(x, dims, keepdim)


def smallest(x: SpatialTensor, dims: Sequence[int], keepdim: bool) -> SpatialTensor:
    """Return the smallest value over dims: what is the largest where the order is turned round.

    Whole numbers without a sign have no negative: their bits are turned round.
    """
    turn = torch.neg if x.is_floating_point() else torch.bitwise_not
    found = largest(wrap(turn(x.local), x), dims, keepdim)
    return wrap(turn(found.local), found)


def largest(x: SpatialTensor, dims: Sequence[int], keepdim: bool) -> SpatialTensor:
    """Return the largest value over dims; its gradient is divided evenly among equal ones."""
    axes = axes_of(x, dims)
    if axes:
        local = largest_over(x.local, tuple(dims), tuple(x.mesh.axes[a] for a in axes))
        local = local if keepdim else local.squeeze(tuple(dims))
    else:
        local = x.local.amax(tuple(dims), keepdim=keepdim)
    return SpatialTensor(local, reduced(x, dims, keepdim), x.mesh)


@operation("moments", "norm", "linalg_vector_norm", "vector_norm")
def _norm(call: Call) -> Any:
    bound = call.bind("input p dim keepdim", p=2, dim=None, keepdim=False)
    if "ord" in bound:
        bound["p"] = bound["ord"]
    x, p = bound["input"], 2.0 if bound["p"] in ("fro", None) else float(bound["p"])
    if bound.get("dtype") is not None:
        x = wrap(x.local.to(bound["dtype"]), x)
    dims = normal_dims(bound["dim"], len(x.dims))
    if not axes_of(x, dims):
        local = torch.linalg.vector_norm(x.local, p, dims, bound["keepdim"])
        return SpatialTensor(local, reduced(x, dims, bound["keepdim"]), x.mesh)
    if math.isinf(p):
        found = largest(wrap(x.local.abs() * math.copysign(1, p), x), dims, bound["keepdim"])
        return wrap(found.local * math.copysign(1, p), found)
    if p == 0:
        return total(wrap((x.local != 0).to(x.local.dtype), x), dims, bound["keepdim"])
    powers = total(wrap(x.local.abs() ** p, x), dims, bound["keepdim"])
    root = powers.local.where(powers.local > 0, 1) ** (
        1 / p
    )  # the gradient of a root of zero is not a number
    return wrap(root.where(powers.local > 0, 0), powers)


@operation("moments", "any", "all", "count_nonzero")
def _any(call: Call) -> Any:
    if call.name == "count_nonzero" and len(call.args) > 2:  # dims one by one
        call = replace(call, args=(call.args[0], call.args[1:]))
    x, dims, keepdim, _ = _arguments(call)
    wanted = ~x.local.bool() if call.name == "all" else x.local.bool()
    found = total(wrap(wanted.long(), x), dims, keepdim)
    answers = {"any": found.local > 0, "all": found.local == 0, "count_nonzero": found.local}
    return wrap(answers[call.name], found)


@operation("moments", "softmax", "log_softmax", "softmin")
def _softmax(call: Call) -> Any:
    third = (
        "_stacklevel"
        if call.func in (functional.softmax, functional.log_softmax, functional.softmin)
        else "dtype"
    )
    bound = call.bind(f"input dim {third} dtype", dim=None, dtype=None)
    x = bound["input"]
    if bound["dim"] is None:
        raise call.unsupported("it is not said along which dim: give dim")
    d = int(bound["dim"]) % len(x.dims)
    if not is_cut(x.dims[d]):
        return wrap(call.func(x.local, *call.args[1:], **call.named), x)
    if bound["dtype"] is not None:
        x = x.to(bound["dtype"])
    x = -x if call.name == "softmin" else x
    shifted = x - x.detach().amax(d, keepdim=True)
    if call.name != "log_softmax":
        powers = shifted.exp()
        return powers / powers.sum(d, keepdim=True)
    return shifted - shifted.exp().sum(d, keepdim=True).log()


@operation("moments", "logsumexp")
def _logsumexp(call: Call) -> Any:
    x, dims, keepdim, _ = _arguments(call)
    if not (x.is_floating_point() or x.is_complex()):
        x = wrap(x.local.to(torch.get_default_dtype()), x)
    if not axes_of(x, dims):
        return SpatialTensor(x.local.logsumexp(dims, keepdim), reduced(x, dims, keepdim), x.mesh)
    if x.is_complex():
        raise call.unsupported(
            "it adds up the exponentials of complex numbers", "write x.exp().sum(...).log()"
        )
    largest = x.detach().amax(dims, keepdim=True)
    logs = (x - largest).exp().sum(dims, keepdim=True).log() + largest
    return logs if keepdim else logs.squeeze(dims)
