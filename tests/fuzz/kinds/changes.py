"""Changes in place: of tensors, of their slices, of views of them."""

from __future__ import annotations

from fuzz.scope import Template

T = Template

WHOLE = (
    T("scale in place", "{write any}.mul_({factor})", "", "", 2.5),
    T("add in place", "{write any}.add_({like})", "", "", 1.5),
    T("augmented add", "{write any} += {like}", "", "", 1.5),
    T("augmented scale", "{write any} {*|-|+}= {factor}", "", "", 1),
    T("relu in place", "{{write any}.relu_()|F.relu_({write any})|F.relu({write any}, inplace=True)}", "", "", 1.5),
    T("clamp in place", "{write any}.{clamp_(-0.5, 0.5)|clamp_(min=0)|clamp_max_(1)}", "", "", 1),
    T("copy in place", "{write any}.copy_({like} * {factor})", "", "", 1),
    T("copy of a transpose", "{write map}.copy_({map2}.transpose(2, 3))", "", "", 0.4),
    T("fill in place", "{write any}.{zero_()|fill_(0.5)}", "", "", 0.3),
    T("other changes", "{write any}.{tanh_()|sigmoid_()|neg_()|abs_()|sin_()}", "", "", 1),
    T("lerp in place", "{write any}.lerp_({like}, {small})", "", "", 0.5),
    T("addcmul in place", "{write any}.addcmul_({like}, {like}, value={small})", "", "", 0.4),
    T("masked fill in place", "{write any}.masked_fill_({like} > 0, {small})", "", "", 0.6),
    T("add rows in place", "{write map}.add_({map2}.mean({2|3}, keepdim=True))", "", "", 0.6),
    T("add a vector in place", "{write map} += {vector}[:, :{C}, None, None]", "", "", 0.5),
)  # fmt: skip

SLICES = (
    T("scale a slice of rows", "{write map}[:, :, {cut H}].mul_({factor})", "", "", 1.5),
    T("scale a slice of columns", "{write map}[..., {cut W}] *= {factor}", "", "", 1),
    T("scale a slice of channels", "{write map}[:, {cut C}].mul_({factor})", "", "", 1),
    T("scale a slice of both", "{write map}[:, :, {cut H}, {cut W}] *= {factor}", "", "", 0.7),
    T("relu a slice", "{write map}[:, :, {cut H}].relu_()", "", "", 0.7),
    T("set rows to a number", "{write map}[:, :, {cut H}] = {small}", "", "", 1),
    T("set columns to a number", "{write map}[..., {cut W}] = {small}", "", "", 0.7),
    T("set channels to a number", "{write map}[:, {cut C}] = {small}", "", "", 0.7),
    T("set rows", "begin, end = {write map}.shape[2] // 3, {write map}.shape[2] // 3 + 2\n{write map}[:, :, begin:end] = {like}[:, :, begin:end] * {factor}", "", "", 0.8),
    T("set a row", "{write map}[:, :, {at H}] = {like}[:, :, {at H}] * {factor}", "", "", 0.8),
    T("set a column", "{write map}[..., {at W}] = {small}", "", "", 0.5),
    T("set a channel", "{write map}[:, {at C}] = {like}[:, {at C}] * {factor}", "", "", 0.7),
    T("set a token", "{write tokens}[:, {at N}] = {small}", "", "", 0.5),
    T("scale a token", "{write tokens}[:, {at N}].mul_({factor})", "", "", 0.7),
    T("set all", "{write any}[:] = {like} * {factor}", "", "", 0.6),
    T("set the border", "{write map}[:, :, :1] = 0\n{write map}[:, :, -1:] = 0", "", "", 0.5),
    T("add to the middle", "{write map}[:, :, 1:-1, 1:-1] += {like}[:, :, 1:-1, 1:-1] * {factor}", "", "", 0.8),
    T("set by every second", "{write map}[:, :, ::2] = {like}[:, :, ::2] * {factor}", "", "", 0.5),
    T("set by a mask", "{write map}[{like} > 0.5] = {small}", "", "", 0.3),
)  # fmt: skip

VIEWS = (
    T("scale a transpose", "{write map}.transpose(2, 3).mul_({factor})", "", "", 0.5),
    T("scale a flat view", "{write map}.{flatten(2)|view({B}, {C}, -1)|reshape({B}, -1)}.mul_({factor})", "", "", 0.6),
    T("scale half of a flat view", "{write map}.view({B}, {C}, -1)[:, :, :{H}].mul_({factor})", "", "", 0.6),
    T("scale a window", "{write map}.view({B}, {C}, -1, {2|3|4}, {W})[:, :, {0|1|-1}].mul_({factor})", "", "", 0.7),
    T("scale one of each window", "{write map}.view({B}, {C}, -1, {2|3|4}, {W})[:, :, :, {0|1|-1}].mul_({factor})", "", "", 0.6),
    T("scale channels last", "{write map}.permute(0, 2, 3, 1).mul_({factor})", "", "", 0.5),
    T("scale a diagonal", "{write map}.diagonal(dim1=2, dim2=3).mul_({factor})", "", "", 0.2),
    T("scale halves", "half = {write map}.shape[2] // 2\n{write map}[:, :, :half].mul_({factor})\n{write map}[:, :, half:].relu_()", "", "", 0.6),
    T("scale unbound", "for part in {write map}.unbind(1)[:2]:\n    part.detach().mul_({factor})", "", "", 0.2),
    T("add to a view", "{write tokens}.transpose(1, 2).add_({small})", "", "", 0.5),
    T("swap halves", "half = {write map}.shape[2] // 2\n{write map}[:, :, :half] = {write map}[:, :, -half:].clone()", "", "", 0.5),
)  # fmt: skip

AFTERWARDS = (
    T("interpolated, then changed", 'same = F.interpolate({map}, size={map}.shape[2:], mode="{nearest|bilinear}")\nsame.mul_({factor})\nsame', "map", "", 0.8),
    T("padded, then changed", "same = F.pad({map}, (0, 0, 0, 0))\nsame.mul_({factor})\nsame", "map", "", 0.6),
    T("pooled, then changed", "same = F.adaptive_avg_pool2d({map}, {map}.shape[2:])\nsame.relu_()\nsame", "map", "", 0.6),
    T("rolled, then changed", "same = torch.roll({map}, {0|{H}}, 2)\nsame.add_({small})\nsame", "map", "", 0.5),
    T("cloned, then changed", "same = {any}.clone()\nsame.mul_({factor})\nsame", "same", "", 0.7),
    T("flipped, then changed", "same = {map}.flip(2)\nsame[:, :, :2] = 0\nsame", "map", "", 0.4),
    T("averaged, then changed", "same = F.avg_pool2d({map}, 1)\nsame.mul_({factor})\nsame", "map", "", 0.3),
    T("kept, then changed", "same = {write any}.{contiguous()|to({write any}.dtype)|reshape({write any}.shape)|view({write any}.shape)|expand_as({write any})}\nsame.mul_({factor})\nsame", "same", "", 0.8),
    T("dropped at 0, then changed", "same = F.dropout({write map}, 0.0)\nsame.mul_({factor})\nsame", "map", "", 0.4),
    T("interpolated to its own scale, then changed", "same = F.interpolate({map}, scale_factor=1)\nsame.mul_({factor})\nsame", "map", "", 0.4),
)  # fmt: skip

KINDS = (*WHOLE, *SLICES, *VIEWS, *AFTERWARDS)
