"""Functions on each element that are seldom met: special functions, complex numbers, and places in a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.spatial import strides as orders
from ziggurat.parallel.spatial.layout import plain
from ziggurat.parallel.spatial.memory import make_meta
from ziggurat.parallel.spatial.operations.gathering import run_whole
from ziggurat.parallel.spatial.operations.pointwise import run_pointwise
from ziggurat.parallel.spatial.table import Call, operation, views_on_meta, wrap
from ziggurat.parallel.spatial.tensor import SpatialTensor, gather

UNARY = (
    "acosh arccos arccosh arcsin arcsinh arctan arctanh asinh atanh digamma erfinv fix i0 isneginf "
    "isposinf isreal lgamma polygamma rad2deg signbit"
)
VIEWS = ("conj", "conj_physical", "resolve_conj", "resolve_neg", "real", "imag", "get real", "get imag")
BINARY = (
    "arctan2 bitwise_left_shift bitwise_right_shift lshift rshift ilshift irshift rlshift rrshift imod ixor idiv rmod "
    "rfloordiv copysign gcd lcm greater greater_equal less less_equal not_equal igamma igammac ldexp logaddexp "
    "logaddexp2 nextafter complex polar"
)
SPECIAL = (
    "digamma entr erf erfc erfcx erfinv exp2 expit expm1 gammainc gammaincc gammaln i0 i0e i1 i1e log1p log_ndtr logit "
    "ndtr ndtri psi round sinc xlog1py xlogy multigammaln polygamma zeta"
)

operation("pointwise", *UNARY.split(), *BINARY.split())(run_pointwise)
operation("pointwise", *VIEWS, views=views_on_meta)(run_pointwise)
operation("pointwise", "mvlgamma", order="contiguous")(run_pointwise)
operation("pointwise", *(f"special_{name}" for name in SPECIAL.split()))(run_pointwise)


def _order_of_angles(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Say how angles lie in memory: those of complex numbers are contiguous, of real ones computed as all else is."""
    (x,) = made
    shape, given = tuple(x.shape), call.bind("input")["input"]
    place = (shape, given.meta.stride())
    found = orders.contiguous(shape) if given.is_complex() else orders.elementwise(shape, [place])
    return [make_meta(shape, found, x.raw.dtype)]


operation("pointwise", "angle", views=_order_of_angles)(run_pointwise)


@operation("pointwise", "view_as_real", views=views_on_meta)
def _view_as_real(call: Call) -> Any:
    x = call.args[0]
    return SpatialTensor(torch.view_as_real(x.local), (*x.dims, plain(2)), x.mesh)


@operation("pointwise", "view_as_complex", views=views_on_meta)
def _view_as_complex(call: Call) -> Any:
    x = call.args[0]
    x = gather(x, call.name, only=[len(x.dims) - 1])
    return SpatialTensor(torch.view_as_complex(x.local), x.dims[:-1], x.mesh)


@operation("pointwise", "bucketize", "isin", "searchsorted", order="contiguous")
def _in_a_table(call: Call) -> Any:
    """Look up each element in a table that every worker has, or gets."""
    first = 1 if call.name == "searchsorted" else 0
    given = list(call.args)
    if len(given) < 2 or not isinstance(given[first], SpatialTensor):
        return run_whole(call)
    x, table = given[first], given[1 - first]
    if isinstance(table, Tensor) and table.dim() > 1 and call.name == "searchsorted":
        return run_whole(call)
    given[first] = x.local
    given[1 - first] = gather(table, call.name).local if isinstance(table, SpatialTensor) else table
    return wrap(call.func(*given, **call.named), x)
