"""Norms: their moments are those of the whole image, or microbatch, over all bands."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.parallel.spatial.axis import Axis
from ziggurat.parallel.spatial.layout import is_cut, shape_of, size_of
from ziggurat.parallel.spatial.norm_gradients import DirectGradient, add_gradient_of_moments
from ziggurat.parallel.spatial.operations.moments import variance_and_mean
from ziggurat.parallel.spatial.sums import start_sum
from ziggurat.parallel.spatial.table import Call, operation, wrap
from ziggurat.parallel.spatial.tensor import SpatialTensor, cut_axes
from ziggurat.torch_internals.kernels import channel_moments
from ziggurat.torch_internals.norm_calls import add_statistics

EXACT_FLOAT32 = 1 << 24  # greatest whole number up to which float32 has all


def counts_of(x: SpatialTensor, skipped: Collection[int]) -> list[tuple[int, ...]]:
    """Return how many positions of a tensor each worker of an axis has, for each axis that cuts it.

    Every worker knows them by the tensor's layout. Along an axis they are those of this worker's line, with the lines of the
    axes before it joined.

    Args:
        x: The tensor.
        skipped: Dims that are no positions: the channels, and the images where each has moments of its own.
    """
    counts = []
    joined: set[int] = set()
    for number in cut_axes(x):
        ranks = list(x.mesh.ranks)
        of_axis = []
        for rank in range(x.mesh.axes[number].size):
            ranks[number] = rank
            of_axis.append(
                math.prod(
                    factor.size if factor.axis in joined else factor.local(ranks)
                    for d, dim in enumerate(x.dims)
                    if d not in skipped
                    for factor in dim
                )
            )
        counts.append(tuple(of_axis))
        joined.add(number)
    return counts


def combine_moments(
    counts: Sequence[int], mean: Tensor, variance: Tensor, axis: Axis
) -> tuple[Tensor, Tensor]:
    """Join the moments of all workers of an axis.

    Args:
        counts: Of each worker's values; they may be 0, but not all.
        mean: Of this worker's values, shape ``(K,)``.
        variance: Of this worker's values, divided by the count, shape ``(K,)``.
        axis: The workers.

    Returns:
        Mean and variance of all values, in the type of `mean`.

    Communication:
        One all-gather of ``2 * K`` numbers; none is read back from the device.

    References:
        Chan et al., Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """
    mine = torch.cat([mean, variance])
    every = axis.workers.all_gather(mine)
    axis.traffic.bytes_sent += mine.numel() * mine.element_size()
    axis.traffic.messages += 1
    rows = every.view(axis.size, -1)
    if sum(counts) > EXACT_FLOAT32:
        rows = rows.double()
    means, variances = rows.chunk(2, dim=1)
    weights = torch.stack([rows.new_full((1,), float(count)) for count in counts])  # made on the device
    number = weights.sum()
    joined = (weights * means).sum(0) / number
    squares = (weights * (variances + (means - joined).square())).sum(0)
    return joined.to(mean.dtype), (squares / number).to(mean.dtype)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, band: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, axes: tuple[Axis, ...],
        counts: list[tuple[int, ...]],
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        mean, variance = _channel_moments(band)
        for axis, of_axis in zip(axes, counts, strict=True):
            mean, variance = combine_moments(of_axis, mean, variance, axis)
        count = float(sum(counts[-1]))
        ctx.dtype = None if weight is None else weight.dtype
        weight, bias = _precise(weight, mean), _precise(bias, mean)
        ctx.save_for_backward(band, weight, mean, variance)
        ctx.eps, ctx.axes, ctx.count = eps, axes, count
        out = functional.batch_norm(band, mean, variance, weight, bias, False, 0.0, eps)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        band, weight, mean, variance = ctx.saved_tensors
        direct = DirectGradient(gradients[0], band, weight, mean, variance, ctx.eps)
        of_weight, of_bias = direct.of_parameters()
        finish = start_sum(torch.stack([of_weight, of_bias]), ctx.axes)
        of_band = direct.of_band()  # while the sums travel
        add_gradient_of_moments(of_band, band, finish(), ctx.count, mean, variance, ctx.eps, weight)
        if weight is None:
            return of_band, None, None, None, None, None
        return of_band, of_weight.to(ctx.dtype), of_bias.to(ctx.dtype), None, None, None


def _precise(parameter: Tensor | None, like: Tensor) -> Tensor | None:
    """Return a parameter in the type of the moments."""
    return None if parameter is None else parameter.to(like.dtype)


def _channel_moments(band: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel of a worker's band, in float32 at least; zeros of an empty band."""
    precise = torch.promote_types(band.dtype, torch.float32)
    mean = torch.zeros(band.shape[1], dtype=precise, device=band.device)
    if band.numel() == 0:
        return mean, mean.clone()
    if band.device.type == "cpu":
        return channel_moments(band)
    dims = [d for d in range(band.dim()) if d != 1]
    variance, mean = torch.var_mean(band.to(precise), dims, correction=0)
    return mean, variance


@operation("moments", "batch_norm", order="first")
def _batch_norm(call: Call) -> Any:
    statistics, affine = "running_mean running_var", "weight bias"
    order = [statistics, affine] if call.func is functional.batch_norm else [affine, statistics]
    bound = call.bind(
        f"input {' '.join(order)} training momentum eps cudnn_enabled",
        weight=None, bias=None, training=False, momentum=0.1, eps=1e-5,
    )  # fmt: skip
    x, running_mean, running_var = bound["input"], bound["running_mean"], bound["running_var"]
    weight, bias, eps = bound["weight"], bound["bias"], bound["eps"]
    axes = tuple(x.mesh.axes[a] for a in cut_axes(x))
    if not bound["training"] or not axes:
        named = {name: value for name, value in bound.items() if name not in ("input", "cudnn_enabled")}
        if bound["training"]:
            _check_count(x)
        return wrap(functional.batch_norm(x.local, **named), x)
    if is_cut(x.dims[1]):
        raise call.unsupported("its channels are cut")
    count = _check_count(x)
    with torch.autocast(x.local.device.type, enabled=False):
        out, mean, variance = _BatchNorm.apply(x.local, weight, bias, eps, axes, counts_of(x, {1}))
    if running_mean is not None:
        unbiased = variance * (count / (count - 1))
        add_statistics(running_mean, running_var, bound["momentum"], mean, unbiased)
    return wrap(out, x)


def _check_count(x: SpatialTensor) -> int:
    count = math.prod(shape_of(x.dims)) // size_of(x.dims[1])
    if count < 2:
        # in PyTorch's words, which callers look for
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}"
        )
    return count


class _GroupNorm(torch.autograd.Function):
    """Group norm, image by image: with the moments of its group, a channel is normalized as batch norm does it."""

    @staticmethod
    def forward(
        ctx: Any, band: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float,
        axes: tuple[Axis, ...], positions: list[tuple[int, ...]],
    ) -> Tensor:  # fmt: skip
        batch, channels = band.shape[:2]
        mean, variance = _group_moments(band, groups)
        counts = [tuple(one * (channels // groups) for one in of_axis) for of_axis in positions]
        for axis, of_axis in zip(axes, counts, strict=True):
            mean, variance = combine_moments(of_axis, mean, variance, axis)
        count = float(sum(counts[-1]))
        mean, variance = (
            m.view(batch, groups).repeat_interleave(channels // groups, 1) for m in (mean, variance)
        )
        ctx.dtypes = tuple(None if given is None else given.dtype for given in (weight, bias))
        weight, bias = _precise(weight, mean), _precise(bias, mean)
        ctx.save_for_backward(band, weight, mean, variance)
        ctx.groups, ctx.axes, ctx.count, ctx.eps = groups, axes, count, eps
        images = [
            functional.batch_norm(one, m, v, weight, bias, False, 0.0, eps)
            for one, m, v in zip(band.split(1), mean, variance, strict=True)
        ]
        return images[0] if batch == 1 else torch.cat(images)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        band, weight, mean_NC, variance_NC = ctx.saved_tensors
        batch, channels = band.shape[:2]
        parts = [
            DirectGradient(gradient, one, weight, mean, variance, ctx.eps)
            for gradient, one, mean, variance in zip(
                gradients[0].split(1), band.split(1), mean_NC, variance_NC, strict=True
            )
        ]
        of_weight, of_bias = (
            torch.stack(p) for p in zip(*(part.of_parameters() for part in parts), strict=True)
        )
        factor = torch.ones_like(mean_NC[0]) if weight is None else weight
        sums = torch.stack([of_weight * factor, of_bias * factor]).view(2, batch, ctx.groups, -1).sum(-1)
        finish = start_sum(sums, ctx.axes)
        images = [part.of_band() for part in parts]  # while the sums travel
        sums = finish().repeat_interleave(channels // ctx.groups, 2)
        for i, (image, one, mean, variance) in enumerate(
            zip(images, band.split(1), mean_NC, variance_NC, strict=True)
        ):
            add_gradient_of_moments(image, one, sums[:, i], ctx.count, mean, variance, ctx.eps, None)
        of_band = images[0] if batch == 1 else torch.cat(images)
        of_parameters = [
            None if dtype is None else total.sum(0).to(dtype)
            for dtype, total in zip(ctx.dtypes, (of_weight, of_bias), strict=True)
        ]
        return of_band, None, *of_parameters, None, None, None


def _group_moments(band: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each group of each image of a worker's band, float32 at least."""
    batch = len(band)
    moments = [_channel_moments(one) for one in band.split(1)]
    mean, variance = (torch.stack(m).view(batch, groups, -1) for m in zip(*moments, strict=True))
    joined = mean.mean(-1, keepdim=True)  # the channels of a group have as many values each
    spread = (variance + (mean - joined).square()).mean(-1)
    return joined.flatten(), spread.flatten()


def _normalize_groups(
    x: SpatialTensor, band: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> SpatialTensor:
    if band.shape[1] == 0:
        return wrap(band.clone(), x)
    axes = tuple(x.mesh.axes[a] for a in cut_axes(x))
    with torch.autocast(x.local.device.type, enabled=False):
        local = _GroupNorm.apply(band, groups, weight, bias, eps, axes, counts_of(x, {0, 1}))
    return wrap(local, x)


def _cut_over(x: SpatialTensor, call: Call) -> bool:
    """Whether the positions of a tensor ``(B, C, *spatial)`` are cut."""
    if is_cut(x.dims[0]) or is_cut(x.dims[1]):
        if any(is_cut(dim) for dim in x.dims[1:]):
            raise call.unsupported("its channels are cut")
        return False  # a batch of windows: each is on one worker
    return bool(cut_axes(x))


@operation("moments", "group_norm", order="first")
def _group_norm(call: Call) -> Any:
    bound = call.bind("input num_groups weight bias eps cudnn_enabled", weight=None, bias=None, eps=1e-5)
    x, groups = bound["input"], bound["num_groups"]
    if not _cut_over(x, call):
        return wrap(functional.group_norm(x.local, groups, bound["weight"], bound["bias"], bound["eps"]), x)
    return _normalize_groups(x, x.local, groups, bound["weight"], bound["bias"], bound["eps"])


@operation("moments", "instance_norm")
def _instance_norm(call: Call) -> Any:
    statistics, affine = "running_mean running_var", "weight bias"
    order = [statistics, affine] if call.func is functional.instance_norm else [affine, statistics]
    bound = call.bind(
        f"input {' '.join(order)} use_input_stats momentum eps cudnn_enabled",
        running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5,
    )  # fmt: skip
    x = bound["input"]
    if not bound["use_input_stats"]:
        return functional.batch_norm(
            x,
            bound["running_mean"],
            bound["running_var"],
            bound["weight"],
            bound["bias"],
            False,
            0.0,
            bound["eps"],
        )
    if bound["running_mean"] is not None:
        _keep_mean_of_images(x, bound["running_mean"], bound["running_var"], bound["momentum"], call)
    if not _cut_over(x, call):
        named = {name: bound[name] for name in ("weight", "bias", "eps")}
        return wrap(functional.instance_norm(x.local, **named), x)
    # of what does not lie in the order of its dims PyTorch keeps a copy here: the original may be changed in place
    band = x.local if x.is_contiguous() else x.local.clone()
    return _normalize_groups(x, band, x.shape[1], bound["weight"], bound["bias"], bound["eps"])


@torch.no_grad()
def _keep_mean_of_images(
    x: SpatialTensor, running_mean: Tensor, running_var: Tensor, momentum: float, call: Call
) -> None:
    """Add the mean of all images' moments to running statistics, as PyTorch's instance norm does."""
    if is_cut(x.dims[1]):
        raise call.unsupported("its channels are cut")
    values = SpatialTensor(x.local.detach(), x.dims, x.mesh)
    variance_NC, mean_NC = variance_and_mean(values, range(2, x.dim()), False, 1.0)
    mean, variance = (found.mean(0) for found in (mean_NC, variance_NC))
    assert isinstance(mean, SpatialTensor) and isinstance(variance, SpatialTensor)
    add_statistics(running_mean, running_var, momentum, mean.local, variance.local)


@operation("moments", "rms_norm", order="first")
@operation("moments", "layer_norm")
def _layer_norm(call: Call) -> Any:
    names = "weight eps" if call.name == "rms_norm" else "weight bias eps cudnn_enable"
    bound = call.bind(f"input normalized_shape {names}", weight=None, bias=None, eps=None)
    x, shape = bound["input"], tuple(bound["normalized_shape"])
    dims = tuple(range(len(x.dims) - len(shape), len(x.dims)))
    if not any(is_cut(x.dims[d]) for d in dims):
        return wrap(call.func(x.local, *call.args[1:], **call.named), x)
    if call.name == "rms_norm":
        eps = torch.finfo(x.dtype).eps if bound["eps"] is None else bound["eps"]
        normal = x * (x.square().mean(dims, keepdim=True) + eps).rsqrt()
        return normal if bound["weight"] is None else normal * bound["weight"]
    variance, mean = variance_and_mean(x, dims, True, 0.0)
    normal = (x - mean) * (variance + (1e-5 if bound["eps"] is None else bound["eps"])).rsqrt()
    for name, combine in (("weight", torch.mul), ("bias", torch.add)):
        if bound[name] is not None:
            normal = combine(normal, bound[name])
    return normal


@operation("moments", "local_response_norm", order="elementwise")
def _local_response_norm(call: Call) -> Any:
    x = call.args[0]
    if is_cut(x.dims[1]):
        raise call.unsupported("its channels are cut")
    return wrap(functional.local_response_norm(x.local, *call.args[1:], **call.named), x)
