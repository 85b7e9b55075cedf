"""Modules with weights: convolutions of many kinds, norms, pooling, linear layers, attention, residuals, loops."""

from __future__ import annotations

from collections.abc import Callable

from fuzz.scope import Template, Variable

T = Template
FEWEST = 12  # values of which a norm takes moments: of fewer, rounding grows


def many(letters: str) -> Callable[[Variable], bool]:
    """Return whether a variable has enough values along some dims."""

    def fits(variable: Variable) -> bool:
        count = 1
        for letter in letters:
            count *= variable.size(letter)
        return count >= FEWEST

    return fits


def conv(name: str, arguments: str, weight: float = 1.0, kind: str = "conv") -> Template:
    """Return a convolution of maps."""
    return T(
        f"{kind} {name}",
        "self.{new}({map})",
        "map",
        f"self.{{new}} = nn.Conv2d({{C}}, {arguments})",
        weight,
    )


CONVOLUTIONS = (
    conv("3x3", "{3|4|{C}}, 3, padding=1", 4),
    conv("1x1", "{2|4|{C}}, 1", 2),
    conv("5x5", "{C}, 5, padding=2, bias=False", 0.7),
    conv("even", "{C}, {2|4}, padding={0|1}", 0.7),
    conv("depthwise", "{C}, 3, padding=1, groups={C}"),
    conv("dilated", "{C}, 3, padding={2|1}, dilation=2", 0.7),
    conv("strided", "{4|{C}}, {3|2|5}, stride={2|2|3}, padding={0|1}", 1.5),
    conv("rectangular", "{C}, {(1, 3), padding=(0, 1)|(3, 1), padding=(1, 0)|(1, 7), padding=(0, 3)|(7, 1), padding=(3, 0)}"),
    conv("same", '{C}, {3|4|5}, padding="same"', 0.5),
    conv("border", '{C}, 3, padding=1, padding_mode="{reflect|circular|replicate}"', 0.7),
    T("conv transposed", "self.{new}({map})", "map",
      "self.{new} = nn.ConvTranspose2d({C}, {3|{C}}, {2, stride=2|3, padding=1|3, stride=2, padding=1, output_padding=1|4, stride=2, padding=1|3, stride=2})", 1.2),
    T("conv transposed depthwise", "self.{new}({map})", "map",
      "self.{new} = nn.ConvTranspose2d({C}, {C}, 4, stride=2, padding=1, groups={C})", 0.4),
    T("conv of rows", "self.{new}({rows})", "rows", "self.{new} = nn.Conv1d({C}, {C}, 3, padding=1)", 0.6),
    T("conv of a series", "self.{new}({series})", "series", "self.{new} = nn.Conv1d({C}, {C}, {1|3, padding=1})", 0.5),
)  # fmt: skip

NORMS = (
    T("batch norm", "self.{new}({map})", "map", "self.{new} = nn.BatchNorm2d({C})", 1.5, many("HW")),
    T("batch norm of tokens", "self.{new}({tokens}.transpose(1, 2)).transpose(1, 2)", "tokens", "self.{new} = nn.BatchNorm1d({C})", 0.4, many("N")),
    T("group norm", "self.{new}({map})", "map", "self.{new} = nn.GroupNorm({1|2|{C}}, {C})", 1, many("HW")),
    T("instance norm", "self.{new}({map})", "map", "self.{new} = nn.InstanceNorm2d({C}, affine={True|False})", 0.8, many("HW")),
    T("instance norm that keeps statistics", "self.{new}({map})", "map", "self.{new} = nn.InstanceNorm2d({C}, track_running_stats=True)", 0.1, many("HW")),
    T("layer norm of tokens", "self.{new}({tokens})", "tokens", "self.{new} = nn.LayerNorm({C})", 0.8, lambda v: v.size("C") > 3),
    T("layer norm of channels", "self.{new}({map}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)", "map", "self.{new} = nn.LayerNorm({C})", 0.7, lambda v: v.size("C") > 3),
    T("layer norm of maps", "self.{new}({map})", "map", "self.{new} = nn.LayerNorm([{C}, {H}, {W}])", 0.3, many("HW")),
    T("local response norm", "F.local_response_norm({map}, 3)", "map", "", 0.2),
)  # fmt: skip

POOLING = (
    T("max pool", "F.max_pool2d({map}, {2|3, stride=2, padding=1|3, stride=1, padding=1|2, stride=2, ceil_mode=True|(1, 2)})", "map", "", 1.5),
    T("average pool", "F.avg_pool2d({map}, {2|3, stride=1, padding=1|3, stride=2, padding=1, count_include_pad=False|2, stride=2, ceil_mode=True})", "map", "", 1.2),
    T("adaptive average pool", "F.adaptive_avg_pool2d({map}, {1|(3, 2)|(None, 1)|(1, None)|5|7})", "map", "", 1.2),
    T("adaptive max pool", "F.adaptive_max_pool2d({map}, {1|2|(None, 1)|3})", "map", "", 0.4),
    T("lp pool", "F.lp_pool2d({map}.abs() + 0.1, 2, 2)", "map", "", 0.2),
)  # fmt: skip

ACTIVATIONS = (
    T("activation", "{torch.relu|torch.sigmoid|torch.tanh|F.gelu|F.silu|F.hardswish|F.softplus|F.elu|F.leaky_relu|F.mish}({any})", "same", "", 3),
    T("prelu", "self.{new}({map})", "map", "self.{new} = nn.PReLU({{C}|1})", 0.4),
    T("relu layer in place", "self.{new}({write map})", "map", "self.{new} = nn.ReLU(inplace=True)", 1),
    T("threshold by where", "torch.where({any} > 0, {any} * {factor}, {like})", "same", "", 0.6),
)  # fmt: skip

MIXING = (
    T("linear of tokens", "self.{new}({tokens})", "tokens", "self.{new} = nn.Linear({C}, {{C}|4})", 1.2),
    T("linear of channels last", "self.{new}({last})", "last", "self.{new} = nn.Linear({C}, {{C}|4})", 1),
    T("linear of columns", "self.{new}({map})", "map", "self.{new} = nn.Linear({W}, {{W}|6})", 0.4),
    T("linear of a vector", "self.{new}({vector})", "vector", "self.{new} = nn.Linear({C}, {{C}|3})", 0.8),
    T("head", "self.{new}({map}.mean((2, 3)))", "vector", "self.{new} = nn.Linear({C}, 5)", 0.4),
    T("attention", "F.scaled_dot_product_attention({tokens}, {tokens} * {factor}, {like})", "tokens", "", 0.7),
    T("multi-head attention", "self.{new}({tokens}, {tokens}, {tokens}, need_weights=False)[0]", "tokens",
      "self.{new} = nn.MultiheadAttention({C}, {{C}|1}, batch_first=True)", 0.4),
    T("residual", "{map} + self.{new}({map})", "map", "self.{new} = nn.Conv2d({C}, {C}, 3, padding=1)", 1.5),
    T("residual block", "{map} + self.{new}({map})", "map",
      "self.{new} = nn.Sequential(nn.Conv2d({C}, 4, 1), nn.ReLU({inplace=True|inplace=False}), nn.Conv2d(4, {C}, 3, padding=1))", 1),
    T("loop", "for _ in range({2|3}):\n    {write map} = torch.tanh(self.{new}({write map}))\n{write map}", "map",
      "self.{new} = nn.Conv2d({C}, {C}, 3, padding=1)", 0.7),
    T("loop in place", "for number in range(3):\n    {write map}.add_(self.{new}({map2}), alpha=0.1 * number)", "",
      "self.{new} = nn.Conv2d({C}, {C}, 1)", 0.4),
    T("squeeze and excite", "{map} * self.{new}({map}.mean((2, 3), keepdim=True)).sigmoid()", "map", "self.{new} = nn.Conv2d({C}, {C}, 1)", 0.8),
    T("coordinate attention",
      "rows, columns = {map}.shape[2:]\n"
      "pooled = torch.cat([F.adaptive_avg_pool2d({map}, (None, 1)), F.adaptive_avg_pool2d({map}, (1, None)).permute(0, 1, 3, 2)], 2)\n"
      "high, wide = torch.split(torch.tanh(self.{new}(pooled)), [rows, columns], 2)\n"
      "{map} * high.sigmoid() * wide.permute(0, 1, 3, 2).sigmoid()",
      "map", "self.{new} = nn.Conv2d({C}, {C}, 1)", 0.6),
)  # fmt: skip

BLOCKS = (
    T("layer that scales its rows", "self.{new}({write map})", "map", "self.{new} = Layer(lambda layers, y: y.mul_({factor}).relu_())", 0.5),
    T("layer that changes a slice", "self.{new}({write map})", "", "self.{new} = Layer(lambda layers, y: y[:, :, {cut H}].mul_({factor}))", 0.4),
    T("layer that returns a view", "self.{new}({map})", "map", "self.{new} = Layer(lambda layers, y: y[:, :, 1:])", 0.4),
    T("layer of two outputs", "self.{new}({map})[{0|1}]", "map",
      "self.{new} = Layer(lambda layers, y: (layers[0](y), y[:, :1]), nn.Conv2d({C}, {C}, 3, padding=1))", 0.4),
    T("layer of two inputs", "self.{new}({map}, {like})", "map",
      "self.{new} = Layer(lambda layers, y, z: layers[0](torch.cat([y, z], 1)), nn.Conv2d(2 * {C}, {C}, 1))", 0.5),
    T("layer that draws", "self.{new}({map})", "map", "self.{new} = Layer(lambda layers, y: F.dropout(layers[0](y), 0.3), nn.Conv2d({C}, {C}, 1))", 0.5),
    T("layer with a branch in place", "self.{new}({map})", "map",
      "self.{new} = Layer(lambda layers, y: layers[0](y).add_(y).relu_(), nn.Conv2d({C}, {C}, 3, padding=1))", 0.6),
    T("layer called twice", "self.{new}(self.{new}({map}))", "map", "self.{new} = nn.Conv2d({C}, {C}, 3, padding=1)", 0.5),
    T("checkpointed", "checkpoint(self.{new}, {map}, use_reentrant=False)", "map",
      "self.{new} = nn.Sequential(nn.Conv2d({C}, {C}, 3, padding=1), nn.Tanh())", 0.3),
    T("checkpointed dropout", "checkpoint(self.{new}, {map}, use_reentrant=False)", "map",
      "self.{new} = nn.Sequential(nn.Conv2d({C}, {C}, 1), nn.Dropout(0.3))", 0.2),
)  # fmt: skip

JOINING = (
    T("add", "{any} {+|-|*} {like}", "same", "", 3),
    T("add twice", "{any} + {any} * {factor}", "same", "", 0.7),
    T("maximum", "torch.{maximum|minimum}({any}, {like})", "same", "", 0.4),
    T("gate", "{map} * {like}.sigmoid()", "map", "", 1),
    T("cat of channels", "torch.cat([{map}, {map2}], 1)", "map", "", 1),
    T("cat of rows", "torch.cat([{map}, {map2}], {2|3|-1})", "map", "", 0.6),
    T("cat of tokens", "torch.cat([{tokens}, {tokens2}], 1)", "tokens", "", 0.4),
    T("stack", "torch.stack([{any}, {like}], {0|1}).{mean|sum}({0|1})", "same", "", 0.4),
    T("lerp", "torch.lerp({any}, {like}, {small})", "same", "", 0.4),
)  # fmt: skip

KINDS = (*CONVOLUTIONS, *NORMS, *POOLING, *ACTIVATIONS, *MIXING, *BLOCKS, *JOINING)
