"""Attention in all its forms, and products of matrices, in bands, as cases."""

import functools
import itertools

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own habit

from support.operation_cases import layer
from support.whole_and_bands import Case


def tokens_of(x):
    return x.flatten(2).transpose(1, 2)


def heads_of(x, count=2):
    """Tokens in heads: ``(B, heads, tokens, channels)``."""
    return tokens_of(x).unflatten(-1, (count, -1)).transpose(1, 2)


class Heads(nn.Module):
    """`nn.MultiheadAttention` over all positions, with what its weights say added to what it returns."""

    def __init__(self, mask=None, padding=None, returned="weights", given=None, **named):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **named)
        self.mask, self.padding, self.returned, self.given = mask, padding, returned, given or {}

    def forward(self, x):
        tokens = tokens_of(x)
        padding = None if self.padding is None else self.padding(x)
        mask = None if self.mask is None else self.mask(x)
        mixed, weights = self.attention(
            tokens, tokens * 2, tokens * 3, attn_mask=mask, key_padding_mask=padding, **self.given
        )
        if weights is None:
            return mixed
        return mixed.square().sum(-1) + weights.square().sum(-1).reshape(*mixed.shape[:2], -1).sum(-1)


class Unbatched(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)

    def forward(self, x):
        tokens = tokens_of(x)[0]
        mixed, weights = self.attention(tokens, tokens, tokens)
        return mixed.sum(-1) + (weights * weights).sum(-1)


class Decoder(nn.Module):
    """Queries that are weights look at the image: DETR's."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(5, 4))
        self.layer = nn.TransformerDecoderLayer(4, 2, 8, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.layer(self.queries.expand(len(x), -1, -1), tokens_of(x))


class Encoder(nn.Module):
    def __init__(self, masked=False):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.masked = masked

    def forward(self, x):
        tokens = tokens_of(x)
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1]) if self.masked else None
        return self.layer(tokens, src_mask=mask, is_causal=self.masked)


def causal_by_hand(x):
    t = tokens_of(x)
    scores = t @ t.transpose(1, 2)
    later = torch.triu(torch.ones_like(scores[0]), 1).bool()
    return scores.masked_fill(later, -torch.inf).softmax(-1) @ t


def direct(x):
    """The function itself, with masks that are true where a key may not be looked at."""
    t = tokens_of(x).transpose(0, 1)
    weight, bias = torch.linspace(-1, 1, 48, dtype=x.dtype).view(12, 4), torch.zeros(12, dtype=x.dtype)
    mask = torch.ones(143, 143, dtype=torch.bool).triu(3)
    out = torch.linspace(-1, 1, 16, dtype=x.dtype).view(4, 4)
    padding = torch.arange(143).expand(2, -1) > 120
    return F.multi_head_attention_forward(
        t,
        t,
        t,
        4,
        2,
        weight,
        bias,
        None,
        None,
        False,
        0.0,
        out,
        None,
        attn_mask=mask,
        key_padding_mask=padding,
    )[0]


def drop(**named):
    def attend(x):
        q = heads_of(x)
        return F.scaled_dot_product_attention(q, q, q, dropout_p=0.4, **named)

    return attend


def in_orders(orders):
    """Attention whose queries, keys and values lie in memory by rows (r) or by columns (c): fused kernels take rows alone."""

    def attend(x):
        t = tokens_of(x)
        found = [
            (t * k).contiguous() if order == "r" else (t * k).transpose(1, 2).contiguous().transpose(1, 2)
            for k, order in enumerate(orders, 1)
        ]
        return F.scaled_dot_product_attention(*found)

    return attend


MASK = functools.partial(lambda x: torch.ones(143, 143, dtype=torch.bool).triu(3))
PADDING = functools.partial(lambda x: (torch.arange(143) > 100).expand(2, -1))
ATTENTION = {
    "weights": Case(layer(Heads)),
    "weights of each head": Case(layer(lambda: Heads(given={"average_attn_weights": False}))),
    "weights and a mask": Case(layer(lambda: Heads(MASK))),
    "a mask for each head": Case(layer(lambda: Heads(lambda x: torch.ones(4, 143, 143, dtype=x.dtype).tril()))),
    "padding": Case(layer(lambda: Heads(padding=PADDING))),
    "padding without weights": Case(layer(lambda: Heads(padding=PADDING, given={"need_weights": False}))),
    "padding of the image's own": Case(layer(lambda: Heads(padding=lambda x: x.mean(1).flatten(1) > 0.9))),
    "padding that is added": Case(layer(lambda: Heads(padding=lambda x: x.mean(1).flatten(1)))),
    "padding and a mask": Case(layer(lambda: Heads(MASK, PADDING, given={"need_weights": False}))),
    "bias_k and bias_v": Case(layer(lambda: Heads(add_bias_kv=True))),
    "bias_k, bias_v, zeros, padding and a mask": Case(
        layer(lambda: Heads(MASK, PADDING, add_bias_kv=True, add_zero_attn=True))
    ),
    "zeros without weights": Case(layer(lambda: Heads(add_zero_attn=True, given={"need_weights": False}))),
    "one sequence": Case(layer(Unbatched)),
    "masks that are true": Case(direct),
    "decoder layer": Case(layer(Decoder)),
    "encoder layer": Case(layer(Encoder)),
    "causal encoder layer": Case(layer(lambda: Encoder(True))),
    "dropout of weights": Case(layer(lambda: Heads(dropout=0.3))),
    "dropout of weights that are not returned": Case(layer(lambda: Heads(dropout=0.3, given={"need_weights": False}))),
    "causal": Case(lambda x: F.scaled_dot_product_attention(heads_of(x), heads_of(x), heads_of(x) * 2, is_causal=True)),
    "causal, fewer keys": Case(
        lambda x: F.scaled_dot_product_attention(heads_of(x), heads_of(x)[:, :, :50], heads_of(x)[:, :, :50], is_causal=True)
    ),
    "causal by hand": Case(causal_by_hand),
    "groups of heads": Case(
        lambda x: F.scaled_dot_product_attention(heads_of(x, 4), heads_of(x)[..., :1], heads_of(x), enable_gqa=True)
    ),
    "heads in channels": Case(lambda x: F.scaled_dot_product_attention(x.flatten(2), x.flatten(2), x.flatten(2))),
    **{
        f"query, key and value in {orders}": Case(in_orders(orders))
        for orders in map("".join, itertools.product("rc", repeat=3))
    },
    "dropout": Case(drop()),
    "dropout, causal": Case(drop(is_causal=True)),
    "dropout and a mask": Case(drop(attn_mask=torch.ones(143, 143, dtype=torch.bool).tril(3))),
}  # fmt: skip
EYE = torch.linspace(-1, 1, 16, dtype=torch.float64).view(4, 4)
PRODUCTS = {
    "einsum with an ellipsis": Case(lambda x: torch.einsum("...ij,...kj->...ik", x, x * 2)),
    "einsum, channels behind": Case(lambda x: torch.einsum("...c,cd->...d", x.permute(0, 2, 3, 1), EYE)),
    "einsum without a result": Case(lambda x: torch.einsum("bchw,dc", x, EYE)),
    "einsum without a result, with an ellipsis": Case(lambda x: torch.einsum("b...w,dw", x, EYE[:, :1].expand(-1, 11))),
    "einsum of broadcast dims": Case(lambda x: torch.einsum("...hw,...wk->...hk", x, EYE[:1, :3].expand(11, 3))),
    "einsum of lists": Case(lambda x: torch.einsum(x, [0, 1, 2, 3], EYE, [4, 1], [0, 4, 2, 3])),
    "einsum of three": Case(lambda x: torch.einsum("bchw,cd,bdhw->bhw", x, EYE, x * 2)),
    "einsum of one": Case(lambda x: torch.einsum("bchw->bwc", x)),
    "einsum, outer": Case(lambda x: torch.einsum("bch,bcw->bchw", x.mean(3), x.mean(2))),
    "tensordot": Case(lambda x: torch.tensordot(x, EYE, dims=([1], [0]))),
    "tensordot over positions": Case(lambda x: torch.tensordot(x, x * 2, dims=([0, 2, 3], [0, 2, 3]))),
    "tensordot of two dims": Case(lambda x: torch.tensordot(x, torch.ones(13, 11, 2, dtype=x.dtype), 2)),
    "inner": Case(lambda x: torch.inner(x, torch.ones(3, 11, dtype=x.dtype))),
    "outer": Case(lambda x: torch.outer(x.mean((0, 1, 3)), x.mean((0, 1, 2)))),
    "kron": Case(lambda x: torch.kron(x[0, 0], torch.ones(2, 3, dtype=x.dtype))),
    "vecdot": Case(lambda x: torch.linalg.vecdot(x, x * 2, dim=1) + torch.linalg.vecdot(x, x * 2, dim=2).sum()),
    "addmm": Case(lambda x: torch.addmm(x[0, 0], x[0, 1], torch.ones(11, 11, dtype=x.dtype), beta=2, alpha=3)),
    "baddbmm": Case(lambda x: torch.baddbmm(x[:, 0], x[:, 1], x[:, 2].transpose(1, 2) @ x[:, 3], beta=0.5)),
    "addbmm": Case(lambda x: torch.addbmm(x[0, 0], x[:, 1], torch.ones(2, 11, 11, dtype=x.dtype))),
    "bilinear": Case(layer(lambda: _Bilinear())),
    "multi_dot": Case(lambda x: torch.linalg.multi_dot([x[0, 0], x[0, 1].t(), x[0, 2]])),
    "distances of pairs": Case(lambda x: torch.cdist(tokens_of(x), tokens_of(x)[:, :9] * 1.5 + 0.3)),
    "distances to a codebook": Case(lambda x: torch.cdist(tokens_of(x), torch.linspace(-1, 1, 24, dtype=x.dtype).view(6, 4))),
    "distances, p=1": Case(lambda x: torch.cdist(tokens_of(x)[:, :9] * 1.5 + 0.3, tokens_of(x), p=1.0)),
    "inverse of a small matrix": Case(lambda x: torch.linalg.inv(x.mean(3)[:, :, :4] + 3 * EYE) @ x.flatten(2)),
    "determinants of each position": Case(lambda x: torch.linalg.det(x.permute(0, 2, 3, 1).unflatten(-1, (2, 2)))),
    "singular values": Case(lambda x: torch.linalg.svdvals(x.flatten(2))),
    "eigenvalues": Case(lambda x: torch.linalg.eigvalsh(x.flatten(2) @ x.flatten(2).transpose(1, 2))),
    "log of determinants": Case(lambda x: torch.linalg.slogdet(x.flatten(2) @ x.flatten(2).transpose(1, 2))[1]),
    "solve": Case(lambda x: torch.linalg.solve(x.flatten(2) @ x.flatten(2).transpose(1, 2), x.flatten(2))),
    "cross product": Case(lambda x: torch.cross(x[:, :3], x[:, 1:] * 2, dim=1)),
    "cross product of rows": Case(lambda x: torch.linalg.cross(x[:, :, :3], x[:, :, 5:8], dim=2)),
    "linear with one row of weights": Case(lambda x: F.linear(tokens_of(x), x.new_tensor([1.0, -2.0, 0.5, 3.0]))),
    "linear with one row of weights, bias": Case(
        lambda x: F.linear(tokens_of(x), x.new_tensor([1.0, -2.0, 0.5, 3.0]), x.new_tensor(0.25))
    ),
    "linear with one row of weights, over a cut dim": Case(lambda x: F.linear(x, torch.arange(x.shape[-1]).to(x) / 7)),
    "linear with one row of weights, then rows": Case(
        lambda x: F.linear(x.permute(0, 2, 3, 1).reshape(-1, 4).softmax(1), x.new_ones(4) * 2).reshape(x.shape[0], -1)
    ),
    "weights of the image's for a plain tensor": Case(lambda x: F.linear(torch.ones(3, 4, dtype=x.dtype), x.mean((2, 3)))),
    "kernels of the image's for a plain image": Case(
        lambda x: F.conv2d(torch.linspace(0, 1, 4 * 81, dtype=x.dtype).view(1, 4, 9, 9), x[..., :3, :3])
    ),
}  # fmt: skip
GROUPS = {"attention": ATTENTION, "products": PRODUCTS}


class _Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Bilinear(4, 4, 3)

    def forward(self, x):
        return self.layer(tokens_of(x), tokens_of(x) * 2)
