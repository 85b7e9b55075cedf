"""Fourier transforms: every frequency is made of all positions, so transformed dims are gathered, and cut again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ziggurat.parallel.spatial.layout import Dim, plain
from ziggurat.parallel.spatial.operations.gathering import along, spread, with_locals
from ziggurat.parallel.spatial.operations.moments import normal_dims
from ziggurat.parallel.spatial.table import Call, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor

KINDS = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")


@operation("gather", *(f"fft_{kind}" for kind in KINDS))
def _transform(call: Call) -> Any:
    bound = call.bind("input n dim", dim=-1)
    return _along(call, spread(bound["input"], call.mesh), (bound["dim"],))


@operation("gather", *(f"fft_{kind}2" for kind in KINDS))
def _transform_two(call: Call) -> Any:
    bound = call.bind("input s dim", dim=(-2, -1))
    return _along(call, spread(bound["input"], call.mesh), bound["dim"])


@operation("gather", *(f"fft_{kind}n" for kind in KINDS))
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


@operation("layout", "fft_fftshift", "fft_ifftshift")
def _shift(call: Call) -> Any:
    """Roll by half of each dim: frequency zero to the middle, or back."""
    bound = call.bind("input dim", dim=None)
    x = spread(bound["input"], call.mesh)
    dims = normal_dims(bound["dim"], len(x.dims))
    more = 0 if call.name == "fft_fftshift" else 1
    return x.roll([(x.shape[d] + more) // 2 for d in dims], dims)
