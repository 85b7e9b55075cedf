"""Attention: queries stay where they are; keys and values are gathered where tokens are cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.parallel.spatial import strides as orders
from ziggurat.parallel.spatial.layout import cuts, size_of
from ziggurat.parallel.spatial.memory import make_meta
from ziggurat.parallel.spatial.operations.gathering import spread
from ziggurat.parallel.spatial.operations.pointwise import align, local_part
from ziggurat.parallel.spatial.table import Call, operation, place_of
from ziggurat.parallel.spatial.tensor import SpatialTensor, gather, slice_local


def _order_of_queries(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Say how what the queries have found lies in memory: as they do, if a fused kernel computes it."""
    (x,), shape = made, tuple(made[0].shape)
    bound = call.bind("query key value attn_mask dropout_p is_causal", dropout_p=0.0)
    query, others = bound["query"], (bound["key"], bound["value"])
    is_fused = (
        _have_rows(query, *others)
        and not bound["dropout_p"]
        and len(shape) == 4
        and tuple(query.shape) == shape
    )
    found = orders.elementwise(shape, [place_of(query)]) if is_fused else orders.contiguous(shape)
    return [make_meta(shape, found, x.raw.dtype)]


def _have_rows(*tensors: Tensor) -> bool:
    """Whether the numbers of each token lie side by side in all tensors, of one worker: fused kernels want that."""
    return all(place_of(one)[1][-1] == 1 for one in tensors)


@operation("gather", "scaled_dot_product_attention", views=_order_of_queries)
def _attention(call: Call) -> Any:
    """Let each query look at all keys.

    Communication:
        All keys and values to every worker, where tokens are cut.
    """
    bound = call.bind(
        "query key value attn_mask dropout_p is_causal",
        attn_mask=None,
        dropout_p=0.0,
        is_causal=False,
        scale=None,
        enable_gqa=False,
    )
    mesh, mask, scale = call.mesh, bound["attn_mask"], bound["scale"]
    may_be_fused = _have_rows(*(bound[name] for name in ("query", "key", "value")))
    query, key, value = (spread(bound[name], mesh) for name in ("query", "key", "value"))
    query, key, value = (gather(t, call.name, only=[len(t.dims) - 1]) for t in (query, key, value))
    if bound["enable_gqa"]:
        key, value = (_for_each_head(t, query) for t in (key, value))
    if float(bound["dropout_p"]) > 0 and any(cuts(t.dims) for t in (query, key, value)):
        if query.device.type != "cpu":
            raise call.unsupported(
                "what a fused kernel drops is not drawn alike on all workers (dropout_p)",
                "compute softmax, dropout and products one by one, or set dropout_p to 0",
            )
        return _attention_with_dropout(
            query, key, value, mask, float(bound["dropout_p"]), bound["is_causal"], scale
        )
    key, value = (gather(t, call.name, only=[len(t.dims) - 2]) for t in (key, value))
    key = align(key, (*query.dims[:-2], *key.dims[-2:]), call.name)
    value = align(value, (*query.dims[:-2], *value.dims[-2:]), call.name)
    layout = (*query.dims[:-1], key.dims[-2])
    if bound["is_causal"]:
        mask = _not_later(query, size_of(key.dims[-2]))
    elif isinstance(mask, Tensor):
        mask = local_part(mask, layout, mesh, call.name)
        mask = (
            mask if mask.dtype == torch.bool else mask.to(query.dtype)
        )  # 2.14 misreads another type on the CPU
    # a fused kernel keeps queries, keys and what it gives; where one worker has none, these may be changed in place
    q, k = query.local, key.local
    if not may_be_fused and torch.is_grad_enabled():
        q, k = q.clone(), k.clone()
    local = functional.scaled_dot_product_attention(
        q, k, value.local, mask, float(bound["dropout_p"]), scale=scale
    )
    local = local if may_be_fused else local.clone()
    return SpatialTensor(local, (*query.dims[:-1], value.dims[-1]), mesh)


def _for_each_head(x: SpatialTensor, query: SpatialTensor) -> SpatialTensor:
    """Return keys or values of groups of heads once for each head."""
    times = size_of(query.dims[-3]) // size_of(x.dims[-3])
    return spread(x.repeat_interleave(times, dim=-3), x.mesh)


def _not_later(query: SpatialTensor, num_keys: int) -> Tensor:
    """Return which keys each of this worker's queries may look at: none that comes later than itself."""
    number = torch.arange(size_of(query.dims[-2]), device=query.device)
    mine = slice_local(number, (query.dims[-2],), query.mesh)
    return mine[:, None] >= torch.arange(num_keys, device=query.device)


def _attention_with_dropout(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    is_causal: bool,
    scale: float | None,
) -> Tensor:
    """Compute the weights one by one, as PyTorch does where some of them are dropped."""
    scores = (query @ key.transpose(-2, -1)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    scores = _masked(scores, mask)
    return functional.dropout(scores.softmax(-1), dropout) @ value


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return scores of which a mask leaves some (where it is true), or to which it adds."""
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask


@operation("gather", "multi_head_attention_forward")
def _multi_head_attention(call: Call) -> Any:
    """Of `torch.nn.MultiheadAttention`: projections stay where they are, around the attention above."""
    bound = call.bind(
        "query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn "
        "dropout_p out_proj_weight out_proj_bias training key_padding_mask need_weights attn_mask "
        "use_separate_proj_weight q_proj_weight k_proj_weight v_proj_weight static_k static_v average_attn_weights "
        "is_causal",
        **dict.fromkeys(("key_padding_mask", "attn_mask", "static_k", "static_v")), training=True,
        need_weights=True, is_causal=False, use_separate_proj_weight=False, average_attn_weights=True,
    )  # fmt: skip
    if bound["static_k"] is not None or bound["static_v"] is not None:
        raise call.unsupported("keys or values are given projected (static_k, static_v)")
    tokens, num_heads = _projected(bound), bound["num_heads"]
    is_batched = len(tokens[0].shape) == 3
    padding, mask = bound["key_padding_mask"], bound["attn_mask"]
    for name, of_all in (("bias_k", 1), ("bias_v", 2)):
        if bound[name] is not None:
            extra = bound[name].expand(1, *tokens[of_all].shape[1:-1], -1) if is_batched else bound[name][0]
            tokens[of_all] = torch.cat([tokens[of_all], extra])
    heads = [token.unflatten(-1, (num_heads, -1)).movedim(0, -2) for token in tokens]
    if bound["add_zero_attn"]:
        heads[1:] = [torch.cat([h, torch.zeros_like(h[..., :1, :])], -2) for h in heads[1:]]
    is_causal = bool(bound["is_causal"]) and padding is None and not bound["need_weights"]  # else a hint only
    added = heads[1].shape[-2] - len(bound["key"])
    mask = None if is_causal else _joined_masks(mask, padding, heads, added, is_batched)
    dropout = float(bound["dropout_p"]) if bound["training"] else 0.0
    query, key, value = heads
    if not bound["need_weights"]:
        mixed = functional.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal)
        return _projected_back(mixed, bound), None
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    weights = _masked(scores, mask).softmax(-1)
    weights = functional.dropout(weights, dropout) if dropout else weights
    returned = weights.mean(-3) if bound["average_attn_weights"] else weights
    return _projected_back(weights @ value, bound), returned


def _projected(bound: dict[str, Any]) -> list[Tensor]:
    """Return queries, keys and values by the weights of each."""
    if bound["use_separate_proj_weight"]:
        weights = [bound[f"{letter}_proj_weight"] for letter in "qkv"]
    else:
        weights = list(bound["in_proj_weight"].chunk(3))
    biases = [None] * 3 if bound["in_proj_bias"] is None else list(bound["in_proj_bias"].chunk(3))
    return [
        functional.linear(bound[name], weight, bias)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True)
    ]


def _projected_back(mixed: Tensor, bound: dict[str, Any]) -> Tensor:
    """Return the heads side by side, sequences first, projected."""
    return functional.linear(
        mixed.movedim(-2, 0).flatten(-2), bound["out_proj_weight"], bound["out_proj_bias"]
    )


def _joined_masks(
    mask: Tensor | None, padding: Tensor | None, heads: Sequence[Tensor], added: int, is_batched: bool
) -> Tensor | None:
    """Return one mask of what PyTorch takes as two, as attention wants it: true where a key may be looked at, or added.

    Args:
        mask: Of queries and keys, shape ``(L, S)`` or ``(B * heads, L, S)``: true where a key may not be looked at, or added.
        padding: Of keys, shape ``(B, S)`` or ``(S,)``: as `mask`.
        heads: Queries, keys and values, shape ``(B, heads, tokens, channels)``, or without ``B``.
        added: Keys behind the given ones, at which every query may look.
        is_batched: Whether there is a ``B``.
    """
    if mask is not None and is_batched and len(mask.shape) == 3 and len(mask) > 1:
        mask = mask.unflatten(0, heads[0].shape[:2])
    if padding is not None:
        padding = padding[:, None, None] if is_batched else padding
    masks = [functional.pad(m, (0, added)) if added else m for m in (mask, padding) if m is not None]
    if not masks:
        return None
    if all(m.dtype == torch.bool for m in masks):
        return ~(masks[0] if len(masks) == 1 else masks[0] | masks[1])
    terms = [_as_terms(m, heads[0].dtype) for m in masks]
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]


def _as_terms(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)
