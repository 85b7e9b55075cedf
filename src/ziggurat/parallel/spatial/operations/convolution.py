"""Convolutions and transposed convolutions of any number of spatial dims.

What backward needs is the band and its halos, which are kept apart and joined again: the widened band would cost the
memory of a second copy, and the band itself is there anyway, being the output of the layer before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.parallel.spatial.geometry import (
    Range,
    transposed_extent,
    transposed_input,
    window_extent,
    window_input,
)
from ziggurat.parallel.spatial.layout import size_of
from ziggurat.parallel.spatial.mesh import SpatialMesh
from ziggurat.parallel.spatial.operations.border import Border, BorderConvolution, plan_border
from ziggurat.parallel.spatial.operations.gathering import spread
from ziggurat.parallel.spatial.operations.kernel import ConvolutionKind
from ziggurat.parallel.spatial.operations.windows import Rows, Step, WindowPlan, per_dim, plan_windows
from ziggurat.parallel.spatial.table import Call, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor
from ziggurat.torch_internals.tensors import is_view


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, band: Tensor, weight: Tensor, bias: Tensor | None, kind: ConvolutionKind,
        steps: tuple[Step, ...], mesh: SpatialMesh,
    ) -> Tensor:  # fmt: skip
        rows, widened = Rows.exchange(band, steps, mesh, 0.0)
        received = [tensor for of_step in rows.received for tensor in of_step]
        ctx.counts = [len(of_step) for of_step in rows.received]
        rows.received = []  # tensors are kept by save_for_backward, so that hooks of saved tensors see them
        ctx.rows, ctx.kind, ctx.has_bias = rows, kind, bias is not None
        ctx.save_for_backward(band, weight, *received)
        out = kind.run(widened, weight, bias, steps)
        return out.clone() if is_view(out) else out  # a view could not be changed in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        band, weight, *received = ctx.saved_tensors
        rows, kind, places = ctx.rows, ctx.kind, iter(received)
        rows.received = [[next(places) for _ in range(count)] for count in ctx.counts]
        widened = rows.join(band)
        rows.received = []
        wants_band, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        if 0 in kind.shape:
            of_band = rows.give_back(torch.zeros_like(widened)) if wants_band else None
            of_bias = weight.new_zeros(gradients[0].shape[1]) if wants_bias else None
            return of_band, torch.zeros_like(weight), of_bias, None, None, None
        gradient = kind.uncrop(gradients[0], rows.steps, widened, tuple(weight.shape[2:]))
        finish = None
        if wants_band:  # the halo's gradient travels while that of the weight is computed
            of_rows, _, _ = kind.gradients(gradient, widened, weight, ctx.has_bias, [True, False, False])
            assert of_rows is not None
            finish = rows.start_return(of_rows, owned=True)
        of_weight = of_bias = None
        if wants_weight or wants_bias:
            mask = [False, wants_weight, wants_bias]
            _, of_weight, of_bias = kind.gradients(gradient, widened, weight, ctx.has_bias, mask)
        of_band = None if finish is None else finish()
        return of_band, of_weight, of_bias, None, None, None


def _convolve(plan: WindowPlan, weight: Tensor, bias: Tensor | None, kind: ConvolutionKind) -> SpatialTensor:
    band, mesh = plan.x.local, plan.x.mesh
    device = band.device.type
    if torch.is_autocast_enabled(device):  # as autocast treats convolutions
        dtype = torch.get_autocast_dtype(device)
        band, weight = band.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    border = _border(plan, band, weight, kind)
    with torch.autocast(device, enabled=False):
        if border is None:
            out = _Convolution.apply(band, weight, bias, kind, plan.steps, mesh)
        else:
            out = BorderConvolution.apply(band, weight, bias, border)
    return plan.finish(out)


def _border(plan: WindowPlan, band: Tensor, weight: Tensor, kind: ConvolutionKind) -> Border | None:
    """Return how the band is convolved before its halo has come; None where that is not possible, or worth it."""
    steps = [step for step in plan.steps if not step.is_local(plan.x.dims[step.dim][0].size)]
    if kind.transposed or 0 in kind.shape or len(steps) != 1 or steps[0].bounds is None:
        return None
    (step,) = steps
    return plan_border(band, weight, step.fetch(0.0), plan.x.mesh.axes[step.axis], kind)


@operation("window", "conv1d", "conv2d", "conv3d", order="channels")
def _conv(call: Call) -> Any:
    bound = call.bind(
        "input weight bias stride padding dilation groups",
        bias=None,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
    )
    x, weight, bias = (
        spread(bound["input"], call.mesh),
        call.weight(bound["weight"]),
        call.weight(bound["bias"]),
    )
    n = weight.dim() - 2
    if x.is_complex():
        raise call.unsupported(
            "it convolves complex numbers", "convolve x.real and x.imag, and put them together"
        )
    if len(x.dims) == n + 1:
        return call.func(x.unsqueeze(0), *call.args[1:], **call.named).squeeze(0)
    stride, dilation = per_dim(bound["stride"], n), per_dim(bound["dilation"], n)
    kernel = tuple(weight.shape[2:])
    x, padding = _paddings(x, bound["padding"], kernel, dilation)
    extents = [
        window_extent(size_of(x.dims[2 + i]), kernel[i], stride[i], padding[i], dilation[i]) for i in range(n)
    ]
    plan = plan_windows(
        call, x, weight.shape[0], extents,
        lambda i, out: window_input(out, kernel[i], stride[i], padding[i][0], dilation[i]), stride,
    )  # fmt: skip
    banded = {step.dim - 2 for step in plan.steps}
    # padding is the same on both sides wherever a dim is not computed in bands, see `_paddings`
    local_padding = tuple(0 if i in banded else padding[i][0] for i in range(n))
    if plan.is_local:  # such as a kernel of one: no halo, and PyTorch's own backward
        local = call.func(plan.x.local, weight, bias, stride, local_padding, dilation, bound["groups"])
        return plan.finish(local)
    kind = ConvolutionKind(
        stride, local_padding, dilation, transposed=False, output_padding=(0,) * n, groups=bound["groups"],
        crop=(), shape=_local_shape(plan),
    )  # fmt: skip
    return _convolve(plan, weight, bias, kind)


def _paddings(
    x: SpatialTensor, padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[SpatialTensor, tuple[Range, ...]]:
    """Return the padding before and after each dim; what is not the same on both sides is padded beforehand."""
    n = len(kernel)
    if padding == "valid":
        return x, ((0, 0),) * n
    if padding != "same":
        return x, tuple((p, p) for p in per_dim(padding, n))
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    sides = [(total // 2, total - total // 2) for total in totals]
    for i, (before, after) in enumerate(sides):
        if before != after:
            widths = [0, 0] * (n - 1 - i) + [0, after - before]
            padded: Any = functional.pad(x, widths)
            x = padded
    return x, tuple((before, before) for before, _ in sides)


def _local_shape(plan: WindowPlan) -> tuple[int, ...]:
    ranks = plan.x.mesh.ranks
    return (
        plan.x.local.shape[0],
        *(dim[0].local(ranks) for dim in plan.dims[1:]),
    )


@operation("window", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", order="channels")
def _conv_transpose(call: Call) -> Any:
    bound = call.bind(
        "input weight bias stride padding output_padding groups dilation",
        bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1,
    )  # fmt: skip
    x, weight, bias = (
        spread(bound["input"], call.mesh),
        call.weight(bound["weight"]),
        call.weight(bound["bias"]),
    )
    groups = bound["groups"]
    n = weight.dim() - 2
    if len(x.dims) == n + 1:
        return call.func(x.unsqueeze(0), *call.args[1:], **call.named).squeeze(0)
    stride, dilation = per_dim(bound["stride"], n), per_dim(bound["dilation"], n)
    padding, extra = per_dim(bound["padding"], n), per_dim(bound["output_padding"], n)
    kernel = tuple(weight.shape[2:])
    extents = [
        transposed_extent(size_of(x.dims[2 + i]), kernel[i], stride[i], padding[i], dilation[i], extra[i])
        for i in range(n)
    ]
    plan = plan_windows(
        call, x, weight.shape[1] * groups, extents,
        lambda i, out: transposed_input(out, kernel[i], stride[i], padding[i], dilation[i]),
    )  # fmt: skip
    banded = {step.dim - 2 for step in plan.steps}
    crop = []
    for step in plan.steps:
        i, rank = step.dim - 2, plan.x.mesh.ranks[step.axis]
        out = step.out[rank]
        crop.append((out[0] - (step.rows[rank][0] * stride[i] - padding[i]), out[1] - out[0]))
    kind = ConvolutionKind(
        stride, tuple(0 if i in banded else padding[i] for i in range(n)), dilation, transposed=True,
        output_padding=tuple(0 if i in banded else extra[i] for i in range(n)), groups=groups,
        crop=tuple(crop), shape=_local_shape(plan),
    )  # fmt: skip
    return _convolve(plan, weight, bias, kind)
