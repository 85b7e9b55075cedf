"""Losses: sums over all positions divided by global counts."""

from __future__ import annotations

import inspect
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
    bound = _bound(call)
    reduction = _reduction_of(bound)
    operands = [a for a in bound.values() if isinstance(a, Tensor)]
    dims = broadcast_dims(operands, call.mesh)
    local = {name: local_part(value, dims, call.mesh, call.name) for name, value in bound.items()}
    losses = SpatialTensor(call.func(**local, reduction="none"), dims, call.mesh)
    if reduction == "none":
        return losses
    if reduction == "batchmean":
        return losses.sum() / operands[0].shape[0]
    return losses.mean() if reduction == "mean" else losses.sum()


def _bound(call: Call) -> dict[str, Any]:
    """Return the arguments of a loss by name."""
    try:
        signature = inspect.signature(call.func)
    except ValueError:  # PyTorch's own, which those of `torch.nn.functional` call
        raise call.unsupported(
            "how it is reduced is given as a number", f"call torch.nn.functional.{call.name}"
        ) from None
    return dict(signature.bind(*call.args, **call.named).arguments)


def _reduction_of(bound: dict[str, Any]) -> str:
    """Take how a loss is reduced out of its arguments, in PyTorch's former words, too."""
    reduction: str = bound.pop("reduction", "mean")
    averages, reduces = bound.pop("size_average", None), bound.pop("reduce", None)
    if averages is None and reduces is None:
        return reduction
    if reduces is False:
        return "none"
    return "sum" if averages is False else "mean"


@operation("moments", "cross_entropy", "nll_loss")
def _cross_entropy(call: Call) -> Any:
    bound = {"weight": None, "ignore_index": -100, "label_smoothing": 0.0} | _bound(call)
    bound["reduction"] = _reduction_of(bound)
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
