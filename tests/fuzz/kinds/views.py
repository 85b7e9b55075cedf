"""Views: slices, one row, other shapes, other orders of dims, broadcasting."""

from __future__ import annotations

from fuzz.scope import Template

T = Template

SLICES = (
    T("slice of rows", "{map}[:, :, {cut H}]", "map", "", 2),
    T("slice of columns", "{map}[{:, :, :|...}, {cut W}]", "map", "", 1.2),
    T("slice of channels", "{map}[:, {cut C}]", "map", "", 1.2),
    T("slice of rows and columns", "{map}[:, :, {cut H}, {cut W}]", "map", "", 1),
    T("slice of tokens", "{tokens}[:, {cut N}]", "tokens", "", 0.8),
    T("slice of channels last", "{last}[:, {cut H}, {cut W}]", "last", "", 0.5),
    T("narrow", "{map}.narrow(2, {0|1|2}, {1|2|3})", "map", "", 0.5),
    T("halves", "{map}.chunk(2, {1|2|3})[{0|1}]", "map", "", 0.8),
    T("split", "torch.split({map}, {2|3|1}, {1|2|3})[{0|-1}]", "map", "", 0.5),
    T("select a row", "{map}[:, :, {at H}]", "rows", "", 0.9),
    T("select a column", "{map}[..., {at W}]", "rows", "", 0.6),
    T("select a token", "{tokens}[:, {at N}]", "vector", "", 0.7),
    T("select a channel", "{map}[:, {at C}].unsqueeze(1)", "map", "", 0.5),
    T("select a position", "{map}[:, :, {at H}, {at W}]", "vector", "", 0.4),
    T("unbind", "torch.stack({map}.unbind(1)[::-1], 1)", "map", "", 0.3),
    T("every second", "{map}[:, :, {0|1}::2, {0|1}::2]", "map", "", 0.7),
)  # fmt: skip

SHAPES = (
    T("tokens", "{map}.flatten(2).transpose(1, 2)", "tokens", "", 2.5),
    T("series", "{map}.{flatten(2)|reshape({B}, {C}, -1)|view({B}, {C}, {H} * {W})}", "series", "", 0.8),
    T("map of tokens", "{map} + {tokens}.transpose(1, 2).reshape({map}.shape)", "map", "", 2),
    T("map from tokens", "{tokens}.transpose(1, 2).{unflatten(2, (-1, 2))|reshape({B}, {C}, -1, 1)}", "map", "", 0.4),
    T("map from a series", "{series}.view({B}, {C}, -1, {1|2|3|4})", "map", "", 0.7),
    T("map of a series", "{map} * {series}.view_as({map})", "map", "", 0.8),
    T("windows of rows", "{map}.view({B}, {C}, -1, {2|3|4}, {W})[:, :, {0|1|-1}]", "map", "", 1),
    T("windows", "{map}.reshape({B}, {C}, {H} // {2|3}, -1, {W})", "five", "", 1.5),
    T("one of windows", "{five}[:, :, {0|-1|1}]", "map", "", 0.6),
    T("one of each window", "{five}[:, :, :, {0|-1|1}]", "map", "", 0.6),
    T("windows joined", "{five}.flatten(2, 3)", "map", "", 0.6),
    T("windows as batch",
      "windows = {map}.view({B}, {C}, {H} // 2, 2, {W}).permute(0, 2, 1, 3, 4).reshape(-1, {C}, 2, {W})\n"
      "windows = windows - windows.mean((2, 3), keepdim=True)\n"
      "windows.view({B}, -1, {C}, 2, {W}).permute(0, 2, 1, 3, 4).reshape({B}, {C}, -1, {W})", "map", "", 0.5),
    T("heads", "{tokens}.reshape({B}, {N}, {1|2|{C}}, -1).transpose(1, 2).softmax(-1).transpose(1, 2).flatten(2)", "tokens", "", 0.5),
    T("rows as channels", "{map}.flatten(1, 2).unsqueeze({1|2})", "map", "", 0.2),
    T("flat", "{map}.flatten(1)", "vector", "", 0.3),
    T("vector as map", "{vector}[:, :, None, None]", "map", "", 0.7),
    T("unsqueeze", "{rows}.unsqueeze({2|3|-1})", "map", "", 0.8),
    T("squeeze", "{map}.mean({2|3}, keepdim=True).squeeze({2|3|-1})", "rows", "", 0.4),
    T("unfold", "F.unfold({map}, {2|3|(1, 2)}, padding={0|1|0}, stride={1|2|1})", "series", "", 0.3),
    T("channel shuffle", "{map}.view({B}, 2, -1, {H}, {W}).transpose(1, 2).reshape({B}, -1, {H}, {W})", "map", "", 0.6),
)  # fmt: skip

ORDERS = (
    T("channels last", "{map}.permute(0, 2, 3, 1)", "last", "", 1.5),
    T("channels first", "{last}.permute(0, 3, 1, 2)", "map", "", 1.8),
    T("transposed", "{map}.{transpose(2, 3)|mT|permute(0, 1, 3, 2)|swapaxes(-1, -2)}", "map", "", 1.2),
    T("transposed twice", "{map}.transpose(2, 3).transpose({2, 3|-2, -1})", "map", "", 0.3),
    T("plus its transpose", "{map} + {map}.transpose(2, 3)", "map", "", 0.8),
    T("rows by columns", "{map}.mean(3, keepdim=True) * {map}.mean(2, keepdim=True)", "map", "", 0.6),
    T("move a dim", "{map}.movedim(1, -1)", "last", "", 0.3),
    T("series of tokens", "{tokens}.{transpose(1, 2)|mT}", "series", "", 0.6),
    T("tokens of a series", "{series}.transpose(1, 2)", "tokens", "", 0.6),
    T("channels as rows", "{map}.transpose(1, {2|3})", "map", "", 0.3),
)  # fmt: skip

BROADCASTS = (
    T("expand rows", "{map}.mean({2|3}, keepdim=True).expand_as({map})", "map", "", 0.6),
    T("expand channels", "{map}.mean(1, keepdim=True).expand(-1, {{C}|3}, -1, -1)", "map", "", 0.5),
    T("expand a vector", "{vector}[:, :, None, None].expand(-1, -1, {5|6}, {4|7})", "map", "", 0.5),
    T("expand like", "{map}.mean((2, 3), keepdim=True).expand_as({map}) * {like}", "map", "", 0.6),
    T("broadcast to", "torch.broadcast_to({map}[:, :1], {map}.shape)", "map", "", 0.3),
    T("times a vector", "{map} * {vector}[:, :{C}, None, None]", "map", "", 0.8),
    T("plus rows", "{map} + {rows}.unsqueeze({3|2})", "map", "", 0.8),
)  # fmt: skip

KINDS = (*SLICES, *SHAPES, *ORDERS, *BROADCASTS)
