"""Padding of the whole: only the bands at its edges get any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.parallel.spatial.geometry import Range
from ziggurat.parallel.spatial.layout import size_of
from ziggurat.parallel.spatial.memory import make_meta
from ziggurat.parallel.spatial.operations.rows import replace_dim, rows_by_index, select
from ziggurat.parallel.spatial.operations.windows import simple_dims
from ziggurat.parallel.spatial.strides import channels_last, contiguous, elementwise, suggests_channels_last
from ziggurat.parallel.spatial.table import Call, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor


def _views(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Say how padded maps lie in memory: PyTorch makes circular ones anew, the others in the order of the input, and copies what it only crops."""
    (x,) = made
    bound, shape = call.bind("input pad mode", mode="constant"), tuple(x.shape)
    given = bound["input"].meta
    is_constant = call.name == "constant_pad_nd" or bound["mode"] == "constant"
    if is_constant and all(width <= 0 for width in bound["pad"]):
        return [make_meta(shape, elementwise(shape, [(shape, given.stride())]), x.local.dtype)]
    is_last = bound["mode"] != "circular" and suggests_channels_last(tuple(given.shape), given.stride())
    return [make_meta(shape, channels_last(shape) if is_last else contiguous(shape), x.local.dtype)]


@operation("window", "pad", "constant_pad_nd", views=_views)
def _pad(call: Call) -> Any:
    bound = call.bind("input pad mode value", mode="constant", value=None)
    if call.name == "constant_pad_nd":
        bound = call.bind("input pad value", value=0) | {"mode": "constant"}
    x, widths, mode = bound["input"], [int(w) for w in bound["pad"]], bound["mode"]
    fill = float(bound["value"] or 0.0)
    for pair in range(len(widths) // 2):
        before, after = widths[2 * pair : 2 * pair + 2]
        if before or after:
            x = _pad_dim(x, len(x.dims) - 1 - pair, before, after, mode, fill, call)
    return x


def _pad_dim(
    x: SpatialTensor, d: int, before: int, after: int, mode: str, fill: float, call: Call
) -> SpatialTensor:
    x = simple_dims(x, [d], call.name)
    factor = x.dims[d][0]
    extent = factor.size + before + after
    if factor.axis is None:
        local = _pad_local(x.local, d, before, after, mode, fill)
        return replace_dim(x, local, d, (x.mesh.factor(extent, None),))
    if mode == "constant":
        return rows_by_index(
            x, d, extent, lambda out: (out[0] - before, out[1] - before), lambda rows, out, first: rows, fill
        )

    def index(out: Range, device: torch.device) -> Tensor:
        return _source_rows(torch.arange(*out, device=device), before, size_of(x.dims[d]), mode, call)

    def source(out: Range) -> Range:
        rows = index(out, torch.device("cpu"))  # read here: a GPU would be waited for
        return int(rows.min()), int(rows.max()) + 1

    return rows_by_index(
        x, d, extent, source, lambda rows, out, first: select(rows, d, index(out, rows.device) - first)
    )


def _pad_local(local: Tensor, d: int, before: int, after: int, mode: str, fill: float) -> Tensor:
    if mode == "constant":
        return functional.pad(local, [0, 0] * (local.dim() - 1 - d) + [before, after], value=fill)
    index = torch.arange(local.shape[d] + before + after, device=local.device)
    return select(local, d, _source_rows(index, before, local.shape[d], mode, None))


def _source_rows(index: Tensor, before: int, extent: int, mode: str, call: Call | None) -> Tensor:
    """Return the input row that each padded row is a copy of."""
    place = index - before
    if mode == "replicate":
        return place.clamp(0, extent - 1)
    if mode == "circular":
        return place % extent
    if mode == "reflect":
        place = place.abs()
        return (extent - 1) - ((extent - 1) - place).abs()
    raise ValueError(f"padding is constant, reflect, replicate or circular: got {mode} ({call})")
