"""Numbers of classes turned into vectors, each position for itself."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from ziggurat.parallel.spatial.layout import plain
from ziggurat.parallel.spatial.operations.gathering import spread
from ziggurat.parallel.spatial.table import Call, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor


@operation("pointwise", "embedding", order="contiguous")
def _embedding(call: Call) -> Any:
    """Look up rows of a table that every worker has: its gradient has a part on each."""
    if call.func is torch.embedding:  # PyTorch's own, that its layers call: the table comes first
        bound = call.bind("weight input padding_idx scale_grad_by_freq sparse")
        bound["padding_idx"] = None if bound.get("padding_idx", -1) == -1 else bound["padding_idx"]
    else:
        bound = call.bind("input weight padding_idx max_norm norm_type scale_grad_by_freq sparse")
    for name in ("max_norm", "scale_grad_by_freq", "sparse"):
        if bound.get(name):
            raise call.unsupported(
                f"all positions together change its table or its gradient ({name})",
                f"make the layer without {name}",
            )
    x, weight = spread(bound["input"], call.mesh), call.weight(bound["weight"])
    local = functional.embedding(x.local, weight, bound.get("padding_idx"))
    return SpatialTensor(local, (*x.dims, plain(weight.shape[1])), call.mesh)


@operation("pointwise", "one_hot", order="contiguous")
def _one_hot(call: Call) -> Any:
    bound = call.bind("input num_classes", num_classes=-1)
    x, count = bound["input"], int(bound["num_classes"])
    count = int(x.max()) + 1 if count == -1 else count
    return SpatialTensor(functional.one_hot(x.local, count), (*x.dims, plain(count)), x.mesh)
