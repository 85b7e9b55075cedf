"""Vectors made comparable, and compared: lengths, angles and distances along a dim, whether it is cut or not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.spatial.operations.gathering import along, run_whole, spread, with_locals
from ziggurat.parallel.spatial.operations.moments import normal_dims
from ziggurat.parallel.spatial.table import Call, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor, keep_own


def _length(x: Tensor, p: float, dim: Any) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, p, dim, keepdim=True)
    return length


@operation("moments", "normalize", order="elementwise")
def _normalize(call: Call) -> Any:
    bound = call.bind("input p dim eps", p=2.0, dim=1, eps=1e-12)
    x = bound["input"]
    return x / _length(x, bound["p"], bound["dim"]).clamp_min(bound["eps"])


@operation("moments", "cosine_similarity")
def _cosine_similarity(call: Call) -> Any:
    bound = call.bind("x1 x2 dim eps", dim=1, eps=1e-8)
    dim = bound["dim"]
    one, other = (_of_length_one(bound[name], dim, bound["eps"]) for name in ("x1", "x2"))
    return (one * other).sum(dim)


def _of_length_one(x: Tensor, dim: int, eps: float) -> Tensor:
    """Return vectors divided by their lengths; the gradient takes a length for what it is where it is below `eps`."""
    length = _length(x, 2.0, dim)
    return x / (length + (length.detach().clamp_min(eps) - length.detach()))


@operation("moments", "pairwise_distance")
def _pairwise_distance(call: Call) -> Any:
    bound = call.bind("x1 x2 p eps keepdim", p=2.0, eps=1e-6, keepdim=False)
    difference = bound["x1"] - bound["x2"] + bound["eps"]
    return torch.linalg.vector_norm(difference, bound["p"], -1, keepdim=bound["keepdim"])


@operation("moments", "dist")
def _dist(call: Call) -> Any:
    bound = call.bind("input other p", p=2)
    return torch.linalg.vector_norm(bound["input"] - bound["other"], bound["p"])


@operation("moments", "aminmax")
def _aminmax(call: Call) -> Any:
    bound = call.bind("input", dim=None, keepdim=False)
    dims = () if bound["dim"] is None else bound["dim"]
    x, keepdim = bound["input"], bound["keepdim"]
    return torch.return_types.aminmax((x.amin(dims, keepdim=keepdim), x.amax(dims, keepdim=keepdim)))


@operation("moments", "nansum", "nanmean")
def _without_nan(call: Call) -> Any:
    bound = call.bind("input dim keepdim", dim=None, keepdim=False)
    x, dim, keepdim = bound["input"], bound["dim"], bound["keepdim"]
    valid = ~x.isnan()
    summed = x.where(valid, 0).sum(dim, keepdim=keepdim)
    return summed if call.name == "nansum" else summed / valid.sum(dim, keepdim=keepdim)


@operation("gather", "gradient")
def _gradient(call: Call) -> Any:
    """Compute differences of neighbours on the whole, as the spacing may be anything."""
    bound = call.bind("input", dim=None)
    x = bound["input"]
    return along(
        call, x, normal_dims(bound["dim"], len(x.dims)), lambda local: with_locals(call, lambda value: local)
    )


@operation("pointwise", "gumbel_softmax", order="contiguous")
def _gumbel_softmax(call: Call) -> Any:
    """Choose classes at random; the noise is that of the whole, drawn by every worker alike."""
    bound = call.bind("logits tau hard eps dim", tau=1.0, hard=False, dim=-1)
    logits, dim = bound["logits"], bound["dim"]
    soft = ((logits + _gumbel_noise(logits)) / bound["tau"]).softmax(dim)
    if not bound["hard"]:
        return soft
    chosen = torch.zeros_like(logits).scatter_(dim, soft.max(dim, keepdim=True)[1], 1.0)
    return chosen - soft.detach() + soft


def _gumbel_noise(x: SpatialTensor) -> SpatialTensor:
    """Draw for the whole, contiguous whatever the memory order of `x` is, as PyTorch does."""
    whole = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return keep_own(-torch.empty_like(whole).exponential_().log(), x.dims, x.mesh)


@operation(
    "gather", "gaussian_nll_loss", "hinge_embedding_loss", "margin_ranking_loss", "cosine_embedding_loss",
    "triplet_margin_loss", "multi_margin_loss", "multilabel_margin_loss", "multilabel_soft_margin_loss", "ctc_loss",
    "embedding_bag",
)  # fmt: skip
def _of_all(call: Call) -> Any:
    return run_whole(call)


@operation(
    "gather", "fractional_max_pool2d", "fractional_max_pool3d", "fractional_max_pool2d_with_indices",
    "fractional_max_pool3d_with_indices",
)  # fmt: skip
def _fractional_max_pool(call: Call) -> Any:
    """Pool windows whose places are drawn, for every image and channel: on the whole, by every worker alike."""
    x = spread(call.args[0], call.mesh)
    return along(
        call, x, range(len(x.dims)), lambda local: with_locals(call, lambda value: local), _by_rule(x)
    )


def _by_rule(x: SpatialTensor) -> Any:
    return lambda d, size: (x.mesh.factor(size, x.dims[d][0].axis),)
