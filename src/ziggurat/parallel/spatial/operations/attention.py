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


WITHOUT = ("bias_k", "bias_v", "key_padding_mask", "static_k", "static_v")


@operation("gather", "multi_head_attention_forward")
def _multi_head_attention(call: Call) -> Any:
    """Of `torch.nn.MultiheadAttention`: projections stay where they are, around the attention above."""
    bound = call.bind(
        "query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn "
        "dropout_p out_proj_weight out_proj_bias",
        **dict.fromkeys((*WITHOUT, "attn_mask")), training=True, need_weights=True, is_causal=False,
        use_separate_proj_weight=False,
    )  # fmt: skip
    given = [name for name in WITHOUT if bound[name] is not None]
    if given or bound["add_zero_attn"]:
        raise call.unsupported(f"with {', '.join(given) or 'add_zero_attn'}")
    if bound["need_weights"]:
        raise call.unsupported("it returns the weights of attention as well; call it with need_weights=False")
    if bound["use_separate_proj_weight"]:
        weights = [bound[f"{letter}_proj_weight"] for letter in "qkv"]
    else:
        weights = list(bound["in_proj_weight"].chunk(3))
    biases = [None] * 3 if bound["in_proj_bias"] is None else list(bound["in_proj_bias"].chunk(3))
    heads: list[Any] = []
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        projected = functional.linear(bound[name], weight, bias)
        heads.append(projected.unflatten(-1, (bound["num_heads"], -1)).movedim(0, -2))
    mask, shape = bound["attn_mask"], heads[0].shape[:-2]
    if mask is not None and len(shape) == 2 and len(mask.shape) == 3:
        mask = mask.unflatten(0, shape)
    dropout = bound["dropout_p"] if bound["training"] else 0.0
    query, key, value = heads
    mixed = functional.scaled_dot_product_attention(query, key, value, mask, dropout, bound["is_causal"])
    return functional.linear(
        mixed.movedim(-2, 0).flatten(-2), bound["out_proj_weight"], bound["out_proj_bias"]
    ), None
