"""Losses: sums over all positions divided by global counts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ziggurat.parallel.spatial.operations.gathering import spread
from ziggurat.parallel.spatial.operations.moments import total
from ziggurat.parallel.spatial.operations.pointwise import broadcast_dims, local_part
from ziggurat.parallel.spatial.table import Call, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor, add_up, cut_axes, gather


@operation(
    "moments", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "kl_div", "poisson_nll_loss", "soft_margin_loss",
)  # fmt: skip
def _elementwise_loss(call: Call) -> Any:
    args, named = list(call.args), dict(call.named)
    reduction = named.pop("reduction", "mean")
    operands = [a for a in (*args, *named.values()) if isinstance(a, Tensor)]
    dims = broadcast_dims(operands, call.mesh)
    args = [local_part(a, dims, call.mesh, call.name) for a in args]
    named = {name: local_part(value, dims, call.mesh, call.name) for name, value in named.items()}
    losses = SpatialTensor(call.func(*args, **named, reduction="none"), dims, call.mesh)
    if reduction == "none":
        return losses
    if reduction == "batchmean":
        return losses.sum() / operands[0].shape[0]
    return losses.mean() if reduction == "mean" else losses.sum()


@operation("moments", "cross_entropy", "nll_loss")
def _cross_entropy(call: Call) -> Any:
    bound = call.bind(
        "input target weight size_average ignore_index reduce reduction label_smoothing",
        weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0,
    )  # fmt: skip
    x, target, weight = spread(bound["input"], call.mesh), bound["target"], call.weight(bound["weight"])
    classes = min(1, len(x.dims) - 1)
    x = gather(x, call.name, only=[classes])
    probabilities = target.is_floating_point()
    layout = x.dims if probabilities else (*x.dims[:classes], *x.dims[classes + 1 :])
    part = local_part(target, layout, call.mesh, call.name)
    named = {"weight": weight, "reduction": "none"}
    if call.name == "cross_entropy":
        named["label_smoothing"] = bound["label_smoothing"]
    if not probabilities:
        named["ignore_index"] = bound["ignore_index"]
    local = call.func(x.local, part, **named)
    losses = SpatialTensor(local, (*x.dims[:classes], *x.dims[classes + 1 :]), call.mesh)
    if bound["reduction"] == "none":
        return losses
    summed = total(losses, range(len(losses.dims)), False)
    if bound["reduction"] == "sum":
        return summed
    if probabilities:
        return losses.mean()
    valid = part != bound["ignore_index"]
    weights = valid.to(local.dtype) if weight is None else weight[part.clamp(min=0)] * valid
    count = add_up(weights.sum().detach(), call.mesh, cut_axes(losses))
    return SpatialTensor(summed.local / count, (), call.mesh)
