"""Tensors that are made like others, and plain ones (buffers, constants, parameters) that take type or shape from spread ones."""

from __future__ import annotations

from fuzz.scope import Template

T = Template
BUFFER = 'self.register_buffer("{new}", torch.linspace(-1, 1, {C}).view(1, -1, 1, 1))'
CONSTANT = "torch.linspace(-1, 1, {C}).view(1, -1, 1, 1)"

KINDS = (
    T("zeros like", "torch.zeros_like({any}) + {like}", "same", "", 0.6),
    T("ones like", "{any} + torch.{ones_like({like})|full_like({like}, 0.3)} * {like}", "same", "", 0.5),
    T("zeros like, then set", "zeros = torch.zeros_like({map})\nzeros[:, :, {cut H}] = 1\nzeros * {map}", "map", "", 0.7),
    T("new zeros", "{map} + {map}.{new_zeros|new_ones}({map}.shape)", "map", "", 0.5),
    T("new zeros, then set", "zeros = {map}.new_zeros({B}, {C}, {H}, {W})\nzeros[:, :, :{H} // 2] = {map}[:, :, :{H} // 2]\nzeros", "map", "", 0.5),
    T("new zeros of another size", "torch.cat([{map}, {map}.new_zeros({B}, 1, {H}, {W})], 1)", "map", "", 0.5),
    T("new full of one", "{map} + {map}.new_full((1, {C}, 1, 1), 0.25)", "map", "", 0.4),
    T("new tensor", "{map} * {map}.new_tensor([0.5, 2.0, 1.0]).sum()", "map", "", 0.3),
    T("buffer", "{map} + self.{new}", "map", BUFFER, 0.7),
    T("buffer cast", "{map} * self.{new}.{to({map})|type_as({map})|to({map}.dtype)|to({map}.device)}", "map", BUFFER, 0.9),
    T("buffer expanded", "self.{new}.expand_as({map}) * {map}", "map", BUFFER, 0.7),
    T("buffer cast and summed", "{map} * self.{new}.abs().to({map}).sum()", "map", BUFFER, 0.7),
    T("constant cast", "{map} + " + CONSTANT + ".{to({map})|type_as({map})}", "map", "", 0.9),
    T("constant cast and summed", "{map} * " + CONSTANT + ".type_as({map}).square().{sum()|mean()}", "map", "", 0.6),
    T("constant cast and enlarged", "F.interpolate({map}, scale_factor=2) + " + CONSTANT + ".type_as({map})", "map", "", 0.5),
    T("constant expanded", "torch.ones(1, {C}, 1, 1, dtype={map}.dtype).expand_as({map}) * {like}", "map", "", 0.7),
    T("constant viewed", "{map} * torch.linspace(0, 1, {B} * {C} * {H} * {W}).{view_as|reshape_as}({map})", "map", "", 0.5),
    T("whole constant cast", "{map} + torch.linspace(-1, 1, {B} * {C} * {H} * {W}).view({map}.shape).{to({map})|type_as({map})}", "map", "", 0.5),
    T("positions of rows", "{map} + torch.{linspace(-1, 1, {H})|arange({H}) / 10}[:, None]", "map", "", 0.7),
    T("positions of columns", "{map} + torch.linspace(-1, 1, {W}).to({map})", "map", "", 0.6),
    T("position map", "{map} + self.{new}", "map", "self.{new} = nn.Parameter(torch.linspace(-1, 1, {H} * {W}).view(1, 1, {H}, {W}))", 0.6),
    T("position tokens", "{tokens} + self.{new}", "tokens", "self.{new} = nn.Parameter(torch.linspace(-1, 1, {N} * {C}).view(1, {N}, {C}))", 0.6),
    T("position resized", 'F.interpolate(self.{new}, size={map}.shape[2:], mode="bilinear") + {map}', "map",
      "self.{new} = nn.Parameter(torch.linspace(-1, 1, {C} * 9).view(1, {C}, 3, 3))", 0.5),
    T("layer scale", "{map} * self.{new}[:, None, None]", "map", "self.{new} = nn.Parameter(torch.full(({C},), 0.5))", 0.6),
    T("class token", "torch.cat([self.{new}.expand({B}, -1, -1), {tokens}], 1)", "tokens",
      "self.{new} = nn.Parameter(torch.linspace(-1, 1, {C}).view(1, 1, -1))", 0.6),
    T("parameter cast", "{map} * self.{new}.{to({map})|type_as({map})}.view(1, -1, 1, 1)", "map", "self.{new} = nn.Parameter(torch.linspace(0.5, 1.5, {C}))", 0.5),
    T("parameter expanded", "self.{new}.expand_as({map}) + {map}", "map", "self.{new} = nn.Parameter(torch.linspace(0.5, 1.5, {C}).view(1, -1, 1, 1))", 0.5),
    T("weight summed", "{map} * self.{new}.to({map}).square().sum()", "map", "self.{new} = nn.Parameter(torch.linspace(-0.5, 0.5, {C}))", 0.4),
    T("grid", "{map} + torch.stack(torch.meshgrid(torch.linspace(0, 1, {H}), torch.linspace(0, 1, {W}), indexing=\"ij\")).sum(0).to({map})", "map", "", 0.4),
    T("mask of a triangle", "{map}.masked_fill(torch.ones({H}, {W}).triu(1).bool(), 0.0)", "map", "", 0.4),
    T("in place on plain", "plain = torch.zeros({C}, dtype={map}.dtype)\nplain += 1\n{map} * plain[:, None, None]", "map", "", 0.3),
)  # fmt: skip
