"""Attention: queries stay where they are; keys and values are gathered where tokens are cut."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from ziggurat.parallel.spatial.layout import is_cut
from ziggurat.parallel.spatial.operations.pointwise import align
from ziggurat.parallel.spatial.table import Call, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor, as_whole, gather, slice_local


@operation("gather", "scaled_dot_product_attention")
def _attention(call: Call) -> Any:
    bound = call.bind(
        "query key value attn_mask dropout_p is_causal",
        attn_mask=None,
        dropout_p=0.0,
        is_causal=False,
        scale=None,
    )
    if bound["is_causal"]:
        raise call.unsupported("a causal mask")
    mesh = call.mesh
    query, key, value = (
        t if isinstance(t, SpatialTensor) else as_whole(t, mesh)
        for t in (bound["query"], bound["key"], bound["value"])
    )
    if any(is_cut(t.dims[-1]) for t in (query, key, value)):
        raise call.unsupported("its channels are cut")
    if float(bound["dropout_p"]) > 0 and any(is_cut(dim) for dim in query.dims):
        raise call.unsupported("dropout of attention is not drawn alike on all workers (dropout_p)")
    tokens = len(key.dims) - 2
    key, value = (gather(t, call.name, only=[tokens]) for t in (key, value))
    key = align(key, (*query.dims[:-2], *key.dims[-2:]), call.name)
    value = align(value, (*query.dims[:-2], *value.dims[-2:]), call.name)
    mask = bound["attn_mask"]
    if isinstance(mask, Tensor):
        layout = (*query.dims[:-1], key.dims[-2])
        if isinstance(mask, SpatialTensor):
            mask = align(mask, layout[len(layout) - len(mask.dims) :], call.name).local
        else:
            mask = slice_local(mask, layout, mesh)
    local = functional.scaled_dot_product_attention(
        query.local, key.local, value.local, mask, float(bound["dropout_p"]), scale=bound["scale"]
    )
    return SpatialTensor(local, (*query.dims[:-1], value.dims[-1]), mesh)
