"""Products of tensors: a map with its transpose, tokens with tokens, channels with channels, rows with columns."""

from __future__ import annotations

from fuzz.scope import Template

T = Template

KINDS = (
    T("with its transpose", "{map} @ {map}.transpose(2, 3) / {W}", "map", "", 0.8),
    T("its transpose with it", "torch.matmul({map}.transpose(-1, -2), {map}) / {H}", "map", "", 0.5),
    T("with another's transpose", "{map} @ {like}.{mT|transpose(2, 3)} / {W}", "map", "", 0.4),
    T("einsum of rows", 'torch.einsum("bchw,bcxw->bchx", {map}, {like}) / {W}', "map", "", 0.4),
    T("einsum of columns", 'torch.einsum("bchw,bchx->bcwx", {map}, {like}) / {H}', "map", "", 0.3),
    T("einsum of channels", 'torch.einsum("bchw,cd->bdhw", {map}, self.{new})', "map", "self.{new} = nn.Parameter(torch.linspace(-0.5, 0.5, {C} * {C}).view({C}, {C}))", 0.4),
    T("einsum to channels", 'torch.einsum("bchw,bdhw->bcd", {map}, {like}) / {H}', "square", "", 0.3),
    T("similarity of tokens", "({tokens} @ {tokens}.transpose(1, 2)).softmax({-1|1}) @ {like}", "tokens", "", 0.8),
    T("similarity", "torch.bmm({tokens}, {like}.transpose(1, 2)) / {C}", "square", "", 0.4),
    T("gram matrix", "{series} @ {series}.transpose(1, 2) / {N}", "square", "", 0.5),
    T("channel attention", "({series} @ {series}.transpose(1, 2) / {N}).softmax(-1) @ {series}", "series", "", 0.5),
    T("linear attention", "{tokens}.softmax(2) @ ({tokens}.softmax(1).transpose(1, 2) @ {like})", "tokens", "", 0.5),
    T("square back", "{square} @ {square}.transpose(1, 2)", "square", "", 0.2),
    T("square to vector", "{square}.mean(2)", "vector", "", 0.4),
    T("outer", "{rows}[:, :, :, None] * {rows2}[:, :, None, :]", "map", "", 0.4),
    T("product of columns", "{map} @ self.{new}", "map", "self.{new} = nn.Parameter(torch.linspace(-0.5, 0.5, {W} * 5).view({W}, 5))", 0.4),
    T("product of rows", "self.{new} @ {map}", "map", "self.{new} = nn.Parameter(torch.linspace(-0.5, 0.5, {H} * 6).view(6, {H}))", 0.4),
)  # fmt: skip
