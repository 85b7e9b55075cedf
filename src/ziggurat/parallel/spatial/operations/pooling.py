"""Pooling: windows of any kind, and adaptive pooling to any number of bins, also across the bands' borders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.parallel.spatial.geometry import (
    Range,
    bin_range,
    pooled_extent,
    ranges,
    window_extent,
    window_input,
)
from ziggurat.parallel.spatial.layout import Factor, plain
from ziggurat.parallel.spatial.memory import make_meta
from ziggurat.parallel.spatial.mesh import SpatialMesh
from ziggurat.parallel.spatial.operations.gathering import run_whole
from ziggurat.parallel.spatial.operations.windows import (
    Rows,
    Step,
    WindowPlan,
    lowest,
    per_dim,
    plan_windows,
    simple_dims,
    widen,
)
from ziggurat.parallel.spatial.strides import (
    as_map_of_one_row,
    channels_last,
    contiguous,
    elementwise,
    suggests_channels_last,
)
from ziggurat.parallel.spatial.table import Call, operation, place_of, views_on_meta
from ziggurat.parallel.spatial.tensor import SpatialTensor, add_up, gather, move
from ziggurat.torch_internals.kernels import max_pool2d, max_pool2d_gradient

POOLS = {
    1: (functional.max_pool1d, functional.avg_pool1d),
    2: (functional.max_pool2d, functional.avg_pool2d),
    3: (functional.max_pool3d, functional.avg_pool3d),
}


def pool_plan(
    call: Call, x: SpatialTensor, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...],
    dilation: tuple[int, ...], ceil_mode: bool,
) -> WindowPlan:  # fmt: skip
    """Plan a pooling of the last dims: which rows each worker needs, and how the result is cut."""
    n = len(kernel)
    first = len(x.dims) - n
    extents = [
        pooled_extent(x.shape[first + i], kernel[i], stride[i], padding[i], dilation[i], ceil_mode)
        for i in range(n)
    ]
    return plan_windows(
        call,
        x,
        None,
        extents,
        lambda i, out: window_input(out, kernel[i], stride[i], padding[i], dilation[i]),
    )


class _MaxPool2d(torch.autograd.Function):
    """Keeps the band and its halos apart, as convolutions do."""

    @staticmethod
    def forward(
        ctx: Any, band: Tensor, sizes: tuple[Any, ...], steps: tuple[Step, ...], mesh: SpatialMesh
    ) -> Tensor:
        rows, widened = Rows.exchange(band, steps, mesh, lowest(band.dtype))
        out, indices = max_pool2d(widened, *sizes)
        received = [tensor for of_step in rows.received for tensor in of_step]
        ctx.counts = [len(of_step) for of_step in rows.received]
        rows.received = []
        ctx.rows, ctx.sizes = rows, sizes
        ctx.save_for_backward(band, indices, *received)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        band, indices, *received = ctx.saved_tensors
        places = iter(received)
        ctx.rows.received = [[next(places) for _ in range(count)] for count in ctx.counts]
        widened = ctx.rows.join(band)
        of_rows = max_pool2d_gradient(gradients[0], widened, indices, *ctx.sizes)
        ctx.rows.received = []
        return ctx.rows.give_back(of_rows, owned=True), None, None, None


def _order_for_gradients(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Lay the largest of a series as PyTorch does: where a gradient is wanted it computes them as of a map with one row."""
    x, shape = call.args[0] if call.args else call.named["input"], tuple(made[0].shape)
    wanted = x.requires_grad and torch.is_grad_enabled()
    strides = as_map_of_one_row(shape, place_of(x)) if wanted else contiguous(shape)
    return [make_meta(shape, strides, made[0].raw.dtype)]


@operation("window", "max_pool1d", views=_order_for_gradients)
@operation("window", "max_pool2d", "max_pool3d", order="first")
def _max_pool(call: Call) -> Any:
    bound = call.bind(
        "input kernel_size stride padding dilation ceil_mode",
        stride=None, padding=0, dilation=1, ceil_mode=False,
    )  # fmt: skip
    x, n = bound["input"], int(call.name[-2])
    kernel = per_dim(bound["kernel_size"], n)
    stride = per_dim(bound["stride"], n) if bound["stride"] else kernel
    padding, dilation = per_dim(bound["padding"], n), per_dim(bound["dilation"], n)
    plan = pool_plan(call, x, kernel, stride, padding, dilation, bound["ceil_mode"])
    first = len(plan.x.dims) - n
    banded = {step.dim - first for step in plan.steps}
    inner = tuple(0 if i in banded else padding[i] for i in range(n))
    sizes = (kernel, stride, inner, dilation, bound["ceil_mode"])
    if n == 2 and not plan.is_local and len(plan.x.dims) == 4:
        return plan.finish(_MaxPool2d.apply(plan.x.local, sizes, plan.steps, plan.x.mesh))
    return plan.finish(POOLS[n][0](widen(plan, lowest(x.dtype)), *sizes))


@operation("window", "avg_pool3d")
@operation("window", "avg_pool1d", "avg_pool2d", order="first")
def _avg_pool(call: Call) -> Any:
    bound = call.bind(
        "input kernel_size stride padding ceil_mode count_include_pad divisor_override",
        stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None,
    )  # fmt: skip
    x, n = bound["input"], int(call.name[-2])
    if not x.is_floating_point():
        raise call.unsupported("averages of whole numbers are rounded", "call x.float() before")
    kernel = per_dim(bound["kernel_size"], n)
    stride = per_dim(bound["stride"], n) if bound["stride"] else kernel
    padding = per_dim(bound["padding"], n)
    first = len(x.dims) - n
    extents = [x.shape[first + i] for i in range(n)]
    plan = pool_plan(call, x, kernel, stride, padding, (1,) * n, bound["ceil_mode"])
    if n == 1:  # it knows no divisor: a second spatial dim of size 1 does
        rows, kernel, stride, padding = (
            widen(plan, 0.0).unsqueeze(-1), (*kernel, 1), (*stride, 1), (*padding, 0),
        )  # fmt: skip
        extents = [*extents, 1]
    else:
        rows = widen(plan, 0.0)
    banded = {step.dim - first for step in plan.steps}
    inner = tuple(0 if i in banded else padding[i] for i in range(len(kernel)))
    pool = functional.avg_pool3d if n == 3 else functional.avg_pool2d
    sums = pool(rows, kernel, stride, inner, bound["ceil_mode"], divisor_override=1)
    divisor = bound["divisor_override"] or _divisors(
        sums, plan, first, kernel, stride, padding, extents, bound["count_include_pad"]
    )
    means = sums / divisor
    return plan.finish(means.squeeze(-1) if n == 1 else means)


def _divisors(
    sums: Tensor, plan: WindowPlan, first: int, kernel: tuple[int, ...], stride: tuple[int, ...],
    padding: tuple[int, ...], extents: Sequence[int], with_padding: bool,
) -> Tensor:  # fmt: skip
    """Return by what each window's sum is divided: the rows in it times the columns in it."""
    starts = {step.dim: step.out[plan.x.mesh.ranks[step.axis]][0] for step in plan.steps}
    product = sums.new_ones(())
    for i in range(len(kernel)):
        d = first + i
        index = torch.arange(sums.shape[d], device=sums.device) + starts.get(d, 0)
        begin = index * stride[i] - padding[i]
        end = torch.clamp(begin + kernel[i], max=extents[i] + padding[i])
        if not with_padding:
            begin, end = begin.clamp(min=0), end.clamp(max=extents[i])
        shape = [1] * sums.dim()
        shape[d] = -1
        product = product * (end - begin).to(sums.dtype).reshape(shape)
    return product


def _order_of_powers(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Lay means as PyTorch does that it takes of powers: these lie as what is computed element by element."""
    x, shape = call.args[0] if call.args else call.named["input"], tuple(made[0].shape)
    own, strides = place_of(x)
    powers = elementwise(own, [(own, strides)])
    if call.name == "lp_pool1d":
        found = as_map_of_one_row(shape, (own, powers))
    else:
        found = channels_last(shape) if suggests_channels_last(own, powers) else contiguous(shape)
    return [make_meta(shape, found, made[0].raw.dtype)]


@operation("window", "lp_pool3d")
@operation("window", "lp_pool1d", "lp_pool2d", views=_order_of_powers)
def _lp_pool(call: Call) -> Any:
    bound = call.bind("input norm_type kernel_size stride ceil_mode", stride=None, ceil_mode=False)
    x, power, n = bound["input"], float(bound["norm_type"]), int(call.name[-2])
    if not x.is_floating_point():
        raise call.unsupported("averages of whole numbers are rounded", "call x.float() before")
    kernel = per_dim(bound["kernel_size"], n)
    stride = per_dim(bound["stride"], n) if bound["stride"] else kernel
    means = POOLS[n][1](x.pow(power), kernel, stride, 0, bound["ceil_mode"])
    return (torch.sign(means) * torch.relu(torch.abs(means)) * math.prod(kernel)).pow(1.0 / power)


@operation("moments", "adaptive_avg_pool3d")
@operation("moments", "adaptive_avg_pool1d", "adaptive_avg_pool2d", order="first")
def _adaptive_avg_pool(call: Call) -> Any:
    """Average rows by a small matrix, dim by dim: a bin's mean over rows and columns is a mean of means."""
    x, extents, first = _adaptive(call)
    if 0 in x.shape:
        return run_whole(call)
    for i, extent in enumerate(extents):
        x = _average_bins(x, first + i, extent)
    return x


def _adaptive(call: Call) -> tuple[SpatialTensor, list[int], int]:
    x, n = call.args[0], int(call.name[-2])
    size = call.args[1] if len(call.args) > 1 else call.named["output_size"]
    sizes = [size] * n if size is None or isinstance(size, int) else list(size)
    first = len(x.dims) - n
    x = simple_dims(x, range(first, len(x.dims)), call.name)
    return x, [x.shape[first + i] if s is None else int(s) for i, s in enumerate(sizes)], first


def _average_bins(x: SpatialTensor, d: int, bins: int) -> SpatialTensor:
    """Average one dim in bins."""
    factor, mesh = x.dims[d][0], x.mesh
    if bins == factor.size:
        return x
    if factor.axis is not None and mesh.is_cut(bins, factor.axis):
        outputs = mesh.factor(bins, factor.axis)
        assert outputs.bounds is not None
        need = [_bins_input(out, factor.size, bins) for out in ranges(outputs.bounds)]
        rank = mesh.ranks[factor.axis]
        local = _bin_matrix(
            move(x, d, 0, need), d, need[rank], ranges(outputs.bounds)[rank], factor.size, bins
        )
        return SpatialTensor(local, (*x.dims[:d], (outputs,), *x.dims[d + 1 :]), mesh)
    rows = (0, factor.size)
    if factor.bounds is not None and factor.axis is not None:
        rows = ranges(factor.bounds)[mesh.ranks[factor.axis]]
    local = _bin_matrix(x.local, d, rows, (0, bins), factor.size, bins)
    if factor.is_cut and factor.axis is not None:  # each worker has averaged its part of every bin
        local = add_up(local, mesh, [factor.axis])
    return SpatialTensor(local, (*x.dims[:d], (Factor(bins, factor.axis),), *x.dims[d + 1 :]), mesh)


def _bins_input(outputs: Range, extent: int, bins: int) -> Range:
    return bin_range(outputs[0], extent, bins)[0], bin_range(outputs[1] - 1, extent, bins)[1]


def _bin_matrix(local: Tensor, d: int, rows: Range, outputs: Range, extent: int, bins: int) -> Tensor:
    """Multiply rows of one dim by the matrix of their weights in each bin."""
    matrix = torch.zeros(outputs[1] - outputs[0], rows[1] - rows[0], dtype=torch.float64)
    for number, index in enumerate(range(*outputs)):
        first, last = bin_range(index, extent, bins)
        matrix[number, max(0, first - rows[0]) : max(0, last - rows[0])] = 1 / (last - first)
    matrix = matrix.to(local.device, local.dtype)
    binned: Tensor = torch.tensordot(matrix, local, dims=([1], [d]))
    return binned.movedim(0, d)


@operation("gather", "adaptive_max_pool3d")
@operation("gather", "adaptive_max_pool1d", "adaptive_max_pool2d", order="first")
def _adaptive_max_pool(call: Call) -> Any:
    """Pool the dims that are whole first: what is left to gather is small."""
    x, extents, first = _adaptive(call)
    n = len(extents)
    pool = (functional.adaptive_max_pool1d, functional.adaptive_max_pool2d, functional.adaptive_max_pool3d)[
        n - 1
    ]
    for i in sorted(range(n), key=lambda i: x.dims[first + i][0].is_cut):
        d = first + i
        if extents[i] == x.shape[d]:
            continue
        if x.dims[d][0].is_cut:
            x = gather(x, call.name, only=[d])
        sizes = list(x.local.shape[first:])
        sizes[i] = extents[i]
        local = pool(x.local, sizes[0] if n == 1 else sizes)
        dim = (Factor(extents[i], x.dims[d][0].axis),)
        x = SpatialTensor(local, (*x.dims[:d], dim, *x.dims[d + 1 :]), x.mesh)
    return x


@operation("window", "unfold", views=views_on_meta)
def _unfold(call: Call) -> Any:
    """Lay the windows side by side: ``torch.nn.functional.unfold`` and ``Tensor.unfold``."""
    if call.func is not functional.unfold:
        return _unfold_dim(**call.bind("x dimension size step"))
    bound = call.bind("input kernel_size dilation padding stride", dilation=1, padding=0, stride=1)
    x, kernel = bound["input"], per_dim(bound["kernel_size"], 2)
    dilation, padding, stride = (per_dim(bound[name], 2) for name in ("dilation", "padding", "stride"))
    plan = pool_plan(call, x, kernel, stride, padding, dilation, False)
    banded = {step.dim - 2 for step in plan.steps}
    inner = tuple(0 if i in banded else padding[i] for i in range(2))
    local = functional.unfold(widen(plan, 0.0), kernel, dilation, inner, stride)
    channels = x.shape[1] * math.prod(kernel)
    dims = (x.dims[0], plain(channels), (*plan.dims[2], *plan.dims[3]))
    return SpatialTensor(local, dims, x.mesh)


def _unfold_dim(x: SpatialTensor, dimension: int, size: int, step: int) -> SpatialTensor:
    """Return the windows of one dim, each laid out along a new last dim: ``Tensor.unfold``."""
    d = dimension % len(x.dims)
    x = simple_dims(x, [d], "unfold")
    extent = window_extent(x.shape[d], size, step, (0, 0), 1)
    axis = x.dims[d][0].axis
    windows = Factor(extent) if axis is None else x.mesh.factor(extent, axis)
    if windows.bounds is None:  # the apex: every worker has all windows
        x = gather(x, only=[d])
        local = x.local
    else:
        local = move(x, d, 0, [window_input(out, size, step, 0, 1) for out in ranges(windows.bounds)])
    dims = (*x.dims[:d], (windows,), *x.dims[d + 1 :], plain(size))
    return SpatialTensor(local.unfold(d, size, step), dims, x.mesh)
