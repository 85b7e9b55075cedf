"""Another scale, another border: and the same ones, where PyTorch copies or returns what it was given."""

from __future__ import annotations

from fuzz.scope import Template

T = Template

KINDS = (
    T("interpolate by factor", 'F.interpolate({map}, scale_factor={2|0.5|1.5}, mode="{nearest|nearest-exact}")', "map", "", 0.8),
    T("interpolate smoothly", 'F.interpolate({map}, scale_factor=2, mode="{bilinear|bicubic}", align_corners={True|False})', "map", "", 0.6),
    T("interpolate to a size", 'F.interpolate({map}, size={(7, 5)|(11, 8)|(6, 13)|9}, mode="{nearest|bilinear|area}")', "map", "", 0.7),
    T("interpolate to another map", 'F.interpolate({map}, size={map2}.shape[2:], mode="{nearest|bilinear}")', "map", "", 1.2),
    T("interpolate to the same size", 'F.interpolate({map}, size={map}.shape[2:], mode="{nearest|bilinear|bicubic|nearest-exact}")', "map", "", 1),
    T("top down", 'F.interpolate({map}, size={map2}.shape[2:], mode="nearest") + {map2}', "map", "", 1),
    T("top down in place", "top = F.interpolate({map}, size={map}.shape[2:])\ntop += {like}\ntop", "map", "", 0.7),
    T("pad", 'F.pad({map}, {(1, 1, 1, 1)|(0, 1, 0, 1)|(2, 0, 1, 3)|(0, 0, 2, 1)|(-1, 0, 0, -1)|(0, 0, -2, 1)})', "map", "", 1),
    T("pad by mode", 'F.pad({map}, {(1, 1, 1, 1)|(0, 1, 0, 1)|(1, 0, 1, 2)}, mode="{reflect|replicate|circular}")', "map", "", 0.6),
    T("pad by nothing", "F.pad({map}, (0, 0, 0, 0))", "map", "", 0.7),
    T("adaptive pool to the same size", "F.{adaptive_avg_pool2d|adaptive_avg_pool2d|adaptive_max_pool2d}({map}, {map}.shape[2:])", "map", "", 0.6),
    T("pixel shuffle", "F.pixel_shuffle(torch.cat([{map}, {like}, {like}, {map}], 1), 2)", "map", "", 0.5),
    T("pixel unshuffle", "F.pixel_unshuffle({map}, 2)", "map", "", 0.4),
    T("roll", "torch.roll({map}, {1|-1|3|(1, 2)|(0, 0)|0}, {2|3|(2, 3)|1})", "map", "", 0.9),
    T("roll by nothing", "torch.roll({map}, {(0, 0), (2, 3)|0, 2|{H}, 2})", "map", "", 0.4),
    T("flip", "{map}.flip({2|3|(2, 3)|1|-1})", "map", "", 0.7),
    T("repeat", "{map}.repeat_interleave(2, {1|2|3})", "map", "", 0.3),
    T("max pool of one", "F.max_pool2d({map}, 1)", "map", "", 0.2),
)  # fmt: skip
