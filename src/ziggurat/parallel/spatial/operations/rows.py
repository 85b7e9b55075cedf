"""Rows of one dim by their index in the input: what padding, slicing, flipping, rolling and resampling share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ziggurat.parallel.spatial.exchange import memory_format_of
from ziggurat.parallel.spatial.geometry import Range, intersect, ranges, scaled_partition
from ziggurat.parallel.spatial.layout import Dim, Factor
from ziggurat.parallel.spatial.mesh import SpatialMesh
from ziggurat.parallel.spatial.tensor import SpatialTensor, gather, move, recut


def replace_dim(x: SpatialTensor, local: Tensor, d: int, dim: Dim) -> SpatialTensor:
    """Return a tensor with one dim changed."""
    return SpatialTensor(local, (*x.dims[:d], dim, *x.dims[d + 1 :]), x.mesh)


def output_ranges(factor: Factor, mesh: SpatialMesh) -> list[Range]:
    """Return the rows of each worker along a factor's axis; all rows where it is whole."""
    assert factor.axis is not None
    if factor.bounds is None:
        return [(0, factor.size)] * mesh.axes[factor.axis].size
    return ranges(factor.bounds)


def rows_by_index(
    x: SpatialTensor,
    d: int,
    extent: int,
    source: Callable[[Range], Range],
    compute: Callable[[Tensor, Range, int], Tensor],
    fill: float = 0.0,
) -> SpatialTensor:
    """Compute new rows of a simple spatial dim from rows of the input.

    Args:
        x: The input.
        d: Its dim, of one factor.
        extent: Of the output.
        source: From output rows to the input rows that they need; virtual ones are filled.
        compute: From the fetched rows, the output rows, and the index of the first fetched row to the output's rows.
        fill: Value of virtual rows.

    Communication:
        The rows that a worker needs and does not have: of an output that is too small to cut, all that it is made of.
    """
    factor, mesh = x.dims[d][0], x.mesh
    out = mesh.factor(extent, factor.axis)
    if factor.axis is None:
        rows = source((0, extent))
        raise ValueError(f"dim {d} is not spatial: got rows {rows}")
    outputs = output_ranges(out, mesh)
    need = [source(o) if o[0] < o[1] else (0, 0) for o in outputs]
    rank = mesh.ranks[factor.axis]
    fetched = move(x, d, 0, need, fill)
    if factor.bounds is not None and not out.is_cut:
        first, last = intersect(ranges(factor.bounds)[rank], need[rank])
        row_bytes = fetched.numel() // max(1, fetched.shape[d]) * fetched.element_size()
        mesh.apex[mesh.layer(), "apex"] += (fetched.shape[d] - (last - first)) * row_bytes
    local = compute(fetched, outputs[rank], need[rank][0])
    return replace_dim(x, local, d, (out,))


def select(local: Tensor, d: int, index: Tensor) -> Tensor:
    """Return rows by their number, in the memory format of the input."""
    if d > 1 and memory_format_of(local) == torch.channels_last:
        return local.permute(0, 2, 3, 1).index_select(d - 1, index).permute(0, 3, 1, 2)
    return local.index_select(d, index)


def with_multiples(x: SpatialTensor, d: int, k: int, multiple: int) -> SpatialTensor:
    """Return a tensor one of whose factors is cut at multiples of a number, or whole if it cannot be.

    Communication:
        The rows that change their owner; none where the bounds are multiples already.
    """
    factor = x.dims[d][k]
    if factor.bounds is None or all(bound % multiple == 0 for bound in factor.bounds):
        return x
    assert factor.axis is not None
    parts = x.mesh.axes[factor.axis].size
    if factor.size // multiple < parts:
        return gather(x, only=[d])
    return recut(x, d, k, scaled_partition(factor.size, parts, multiple))
