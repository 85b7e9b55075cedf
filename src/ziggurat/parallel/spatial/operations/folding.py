"""What puts windows back into a map: fold, pooling that says where its values come from, and unpooling by that.

Folding adds up windows that overlap. It is the adjoint of laying them side by side, so rows go the other way: each worker
adds up its own windows, and gives the rows that belong to its neighbours' bands to them.

    windows of worker 0   [0 1 2 3 4]               rows 4 and 5 are computed by both:
    windows of worker 1           [4 5 6 7]         worker 1 owns them, and gets what worker 0 has of row 4
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.parallel.spatial.exchange import Fetch, give
from ziggurat.parallel.spatial.geometry import partition, ranges, window_extent, window_input
from ziggurat.parallel.spatial.layout import Dim, Factor, plain
from ziggurat.parallel.spatial.operations.gathering import along, spread
from ziggurat.parallel.spatial.operations.pointwise import align
from ziggurat.parallel.spatial.operations.pooling import POOLS, pool_plan
from ziggurat.parallel.spatial.operations.selecting import has_empty_band
from ziggurat.parallel.spatial.operations.shapes import reshape
from ziggurat.parallel.spatial.operations.windows import WindowPlan, lowest, per_dim, simple_dims, widen
from ziggurat.parallel.spatial.table import Call, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor, gather


@operation("window", "fold", "col2im")
def _fold(call: Call) -> Any:
    """Add up windows: ``(B, C * k * k, windows)`` to ``(B, C, H, W)``.

    Communication:
        The rows that windows of one worker reach in another's band.
    """
    bound = call.bind(
        "input output_size kernel_size dilation padding stride", dilation=1, padding=0, stride=1
    )
    x: SpatialTensor = bound["input"] if len(bound["input"].dims) == 3 else bound["input"].unsqueeze(0)
    size, kernel, dilation, padding, stride = (
        per_dim(bound[name], 2) for name in ("output_size", "kernel_size", "dilation", "padding", "stride")
    )
    counts = [
        window_extent(size[i], kernel[i], stride[i], (padding[i], padding[i]), dilation[i]) for i in range(2)
    ]
    x = simple_dims(reshape(x, [*x.shape[:-1], *counts]), (2, 3), call.name)
    x = gather(x, call.name, only=[1, *(d for d in (2, 3) if has_empty_band(x.dims[d]))])
    shape, inner = list(size), list(padding)
    for i in range(2):
        if x.dims[2 + i][0].is_cut:
            shape[i] = (x.local.shape[2 + i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
            inner[i] = 0
    local = functional.fold(x.local.flatten(2), tuple(shape), kernel, dilation, tuple(inner), stride)
    dims: list[Dim] = [x.dims[0], plain(x.shape[1] // math.prod(kernel))]
    after = []
    for i in range(2):
        factor = x.dims[2 + i][0]
        if factor.bounds is None or factor.axis is None:
            dims.append(plain(size[i]))
            continue
        axis = x.mesh.axes[factor.axis]
        have = partition(size[i], axis.size)
        need = [
            window_input(own, kernel[i], stride[i], padding[i], dilation[i]) for own in ranges(factor.bounds)
        ]
        local = give(local, Fetch(2 + i, have, tuple(need)), axis)
        dims.append((Factor(size[i], factor.axis, have),))
        if not x.mesh.is_cut(size[i], factor.axis):
            after.append(2 + i)
    folded = gather(SpatialTensor(local, tuple(dims), x.mesh), only=after)
    return folded if len(bound["input"].dims) == 3 else folded.squeeze(0)


@operation(
    "window", "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices", order="first"
)
def _max_pool_with_indices(call: Call) -> Any:
    """Pool, and say for each value which position of the whole map it comes from."""
    bound = call.bind(
        "input kernel_size stride padding dilation ceil_mode",
        stride=None,
        padding=0,
        dilation=1,
        ceil_mode=False,
    )
    x, n = bound["input"], int(call.name.removesuffix("d_with_indices")[-1])
    kernel = per_dim(bound["kernel_size"], n)
    stride = per_dim(bound["stride"], n) if bound["stride"] else kernel
    padding, dilation = per_dim(bound["padding"], n), per_dim(bound["dilation"], n)
    plan = pool_plan(call, x, kernel, stride, padding, dilation, bound["ceil_mode"])
    first = len(plan.x.dims) - n
    banded = {step.dim - first for step in plan.steps}
    inner = tuple(0 if i in banded else padding[i] for i in range(n))
    rows = widen(plan, lowest(plan.x.dtype))
    pool = POOLS[n][0]
    local, index = pool(rows, kernel, stride, inner, dilation, bound["ceil_mode"], return_indices=True)
    return plan.finish(local), plan.finish(_of_whole(index, rows.shape[first:], plan, first))


def _of_whole(index: Tensor, shape: torch.Size, plan: WindowPlan, first: int) -> Tensor:
    """Return positions in the whole map, flat, from flat positions in rows that were fetched for a band."""
    starts = {step.dim: step.rows[plan.x.mesh.ranks[step.axis]][0] for step in plan.steps}
    extents = plan.x.shape[first:]
    found = torch.zeros_like(index)
    for i, extent in enumerate(extents):
        place = index // math.prod(shape[i + 1 :]) % shape[i] + starts.get(first + i, 0)
        # in a window of -inf alone the first position is taken, which may be padding here
        found = found * extent + place.clamp(0, extent - 1)
    return found


@operation(
    "gather",
    "adaptive_max_pool1d_with_indices",
    "adaptive_max_pool2d_with_indices",
    "adaptive_max_pool3d_with_indices",
)
def _adaptive_max_pool_with_indices(call: Call) -> Any:
    bound = call.bind("input output_size")
    x, n = bound["input"], int(call.name.removesuffix("d_with_indices")[-1])
    spatial = range(len(x.dims) - n, len(x.dims))
    x = simple_dims(x, spatial, call.name)
    pool = getattr(functional, f"adaptive_max_pool{n}d")
    return along(
        call, x, spatial, lambda local: pool(local, bound["output_size"], return_indices=True), _by_rule(x)
    )


@operation("gather", "max_unpool2d", order="first")
@operation("gather", "max_unpool1d", "max_unpool3d")
def _max_unpool(call: Call) -> Any:
    """Put values where they came from, which may be anywhere."""
    bound = call.bind("input indices kernel_size stride padding output_size")
    x, n = spread(bound["input"], call.mesh), int(call.name[-2])
    spatial = range(len(x.dims) - n, len(x.dims))
    x = simple_dims(x, spatial, call.name)
    indices = gather(spread(bound["indices"], call.mesh), call.name, only=spatial)
    indices = align(indices, (*x.dims[:-n], *indices.dims[-n:]), call.name)
    named = {name: value for name, value in call.named.items() if name not in ("input", "indices")}
    return along(
        call, x, spatial, lambda local: call.func(local, indices.local, *call.args[2:], **named), _by_rule(x)
    )


def _by_rule(x: SpatialTensor) -> Any:
    """Return how dims of another size are cut: along the axes of the input's."""
    return lambda d, size: (x.mesh.factor(size, x.dims[d][0].axis),)
