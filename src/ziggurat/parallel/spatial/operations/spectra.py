"""Fourier transforms: every frequency is made of all positions, so transformed dims are gathered, and cut again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.spatial import strides as orders
from ziggurat.parallel.spatial.layout import Dim, plain
from ziggurat.parallel.spatial.memory import make_meta
from ziggurat.parallel.spatial.operations.gathering import along, spread, with_locals
from ziggurat.parallel.spatial.operations.moments import normal_dims
from ziggurat.parallel.spatial.table import Call, as_made, operation, place_of
from ziggurat.parallel.spatial.tensor import SpatialTensor

KINDS = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")
SMALL = 4  # of a dim in an example


def _order_by_example(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Say how a transform lies in memory: as that of a small tensor does, whose dims lie in memory in the same order.

    Which dim a library transforms first, and where it puts the results, is nowhere said, and the meta device says otherwise.
    """
    (x,) = made
    one_dim = call.name.removeprefix("fft_") in KINDS
    bound = call.bind("input n dim" if one_dim else "input s dim norm")
    given = bound.pop("input")
    shape, strides = place_of(given)
    small = tuple(min(size, SMALL) for size in shape)
    order = sorted(range(len(shape)), key=lambda d: (strides[d], -d))
    wide = tuple(max(size, 2) for size in small)  # a dim of one element has its place in the order, too
    example = torch.zeros(wide, dtype=given.dtype, device=given.device)
    example = example.as_strided(small, orders.in_order(wide, order))
    for name in ("n", "s"):
        if bound.get(name) is not None:
            bound[name] = _sizes_of_example(call, shape, small, bound[name], bound.get("dim"))
    found = call.func(example, **bound)
    slowest_last = sorted(range(x.dim()), key=lambda d: (found.stride(d), found.shape[d] > 1, -d))
    return [make_meta(tuple(x.shape), orders.in_order(x.shape, slowest_last), x.raw.dtype)]


def _sizes_of_example(call: Call, shape: Sequence[int], small: Sequence[int], sizes: Any, dim: Any) -> Any:
    """Return to which sizes an example is transformed: larger than its own where the whole's are, or smaller."""
    asked = [sizes] if isinstance(sizes, int) else list(sizes)
    dims = [dim] if isinstance(dim, int) else range(-len(asked), 0) if dim is None else dim
    found = []
    for place, (size, d) in enumerate(zip(asked, dims, strict=True)):
        is_half = "irfft" in call.name or ("hfft" in call.name and "ihfft" not in call.name)
        is_half &= place == len(asked) - 1
        read = size // 2 + 1 if is_half else size
        more = small[d] + (read > shape[d]) - (read < shape[d] and read != -1)
        found.append(2 * (more - 1) if is_half else more)
    return found[0] if isinstance(sizes, int) else found


@operation("gather", *(f"fft_{kind}" for kind in KINDS), views=_order_by_example)
def _transform(call: Call) -> Any:
    bound = call.bind("input n dim", dim=-1)
    return _along(call, spread(bound["input"], call.mesh), (bound["dim"],))


@operation("gather", *(f"fft_{kind}2" for kind in KINDS), views=_order_by_example)
def _transform_two(call: Call) -> Any:
    bound = call.bind("input s dim", dim=(-2, -1))
    return _along(call, spread(bound["input"], call.mesh), bound["dim"])


@operation("gather", *(f"fft_{kind}n" for kind in KINDS), views=_order_by_example)
def _transform_many(call: Call) -> Any:
    bound = call.bind("input s dim", s=None, dim=None)
    x, dim = spread(bound["input"], call.mesh), bound["dim"]
    if dim is None and bound["s"] is not None:
        dim = range(-len(bound["s"]), 0)
    return _along(call, x, dim if dim is None else tuple(dim))


def _along(call: Call, x: SpatialTensor, dim: Any) -> Any:
    """Transform dims; one of another size than the input's is cut by the rule, along the axis that cuts the input's.

    Placement:
        Whole along the dims while they are transformed; each worker keeps its band of the frequencies.
    """
    return along(
        call,
        x,
        normal_dims(dim, len(x.dims)),
        lambda local: with_locals(call, lambda value: local),
        _by_rule(x),
    )


def _by_rule(x: SpatialTensor) -> Callable[[int, int], Dim]:
    def sized(d: int, size: int) -> Dim:
        return (x.mesh.factor(size, x.dims[d][0].axis),) if len(x.dims[d]) == 1 else plain(size)

    return sized


@operation("layout", "fft_fftshift", "fft_ifftshift", views=as_made)
def _shift(call: Call) -> Any:
    """Roll by half of each dim: frequency zero to the middle, or back."""
    bound = call.bind("input dim", dim=None)
    x = spread(bound["input"], call.mesh)
    dims = normal_dims(bound["dim"], len(x.dims))
    more = 0 if call.name == "fft_fftshift" else 1
    return x.roll([(x.shape[d] + more) // 2 for d in dims], dims)
