"""Joining tensors along a dim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.spatial.geometry import Range, intersect
from ziggurat.parallel.spatial.layout import Dims, Factor, cuts, is_cut, plain, size_of
from ziggurat.parallel.spatial.mesh import SpatialMesh
from ziggurat.parallel.spatial.operations.pointwise import align, broadcast_dims
from ziggurat.parallel.spatial.operations.rows import output_ranges
from ziggurat.parallel.spatial.operations.windows import simple_dims
from ziggurat.parallel.spatial.table import Call, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor, as_whole, gather, move


@operation("layout", "cat", "concat", "concatenate")
def _cat(call: Call) -> Any:
    bound = call.bind("tensors dim", dim=0)
    if "axis" in bound:
        bound["dim"] = bound["axis"]
    return cat(bound["tensors"], bound["dim"], call.mesh, call.name)


def cat(tensors: Sequence[Tensor], dim: int, mesh: SpatialMesh, operation: str) -> SpatialTensor:
    """Join tensors along a dim."""
    given = [t if isinstance(t, SpatialTensor) else as_whole(t, mesh) for t in tensors]
    parts = [t for t in given if not (len(t.dims) == 1 and size_of(t.dims[0]) == 0)]
    d = dim % len(parts[0].dims)
    # the layout of all dims but the one along which they are joined
    probes = [_without(t, d) for t in parts]
    layout = broadcast_dims(probes, mesh)
    taken = cuts((*layout[:d], *layout[d + 1 :])).keys()
    axes = [axis for t in parts for axis in cuts((t.dims[d],)) if axis not in taken]
    parts = [
        gather(t, operation, only=[d]) if cuts((t.dims[d],)).keys() - set(axes[:1]) else t for t in parts
    ]
    parts = [align(t, (*layout[:d], t.dims[d], *layout[d + 1 :]), operation) for t in parts]
    if any(is_cut(t.dims[d]) for t in parts):
        return _cat_bands(parts, d, layout, operation)
    local = torch.cat([t.local for t in parts], dim=d)
    whole = plain(sum(size_of(t.dims[d]) for t in parts))
    return SpatialTensor(local, (*layout[:d], whole, *layout[d + 1 :]), mesh)


def _without(x: SpatialTensor, d: int) -> SpatialTensor:
    """Return a stand-in whose dim `d` has size 1."""
    shape = [1 if i == d else 0 if size_of(dim) == 0 else 1 for i, dim in enumerate(x.dims)]
    return SpatialTensor(x.local.new_empty(shape), (*x.dims[:d], plain(1), *x.dims[d + 1 :]), x.mesh)


def _cat_bands(parts: list[SpatialTensor], d: int, layout: Dims, operation: str) -> SpatialTensor:
    """Join along a dim that is cut: each worker fetches its rows of the whole from each part."""
    mesh = parts[0].mesh
    parts = [simple_dims(t, [d], operation) if is_cut(t.dims[d]) else t for t in parts]
    axis = next((t.dims[d][0].axis for t in parts if t.dims[d][0].is_cut), None)
    extent = sum(size_of(t.dims[d]) for t in parts)
    out = mesh.factor(extent, axis)
    if axis is None or not out.is_cut:
        wholes = [gather(t, operation, only=[d]).local for t in parts]
        return SpatialTensor(
            torch.cat(wholes, dim=d), (*layout[:d], (Factor(extent, axis),), *layout[d + 1 :]), mesh
        )
    outputs, start, pieces = output_ranges(out, mesh), 0, []
    for t in parts:
        size = size_of(t.dims[d])
        need = [_inside(o, start, size) for o in outputs]
        spatial = SpatialTensor(t.local, (*t.dims[:d], _spatial(t.dims[d], axis), *t.dims[d + 1 :]), mesh)
        pieces.append(move(spatial, d, 0, need))
        start += size
    return SpatialTensor(torch.cat(pieces, dim=d), (*layout[:d], (out,), *layout[d + 1 :]), mesh)


def _inside(output: Range, start: int, size: int) -> Range:
    """Return which rows of a part lie in an output range."""
    first, last = intersect((start, start + size), output)
    return first - start, last - start


def _spatial(dim: tuple[Factor, ...], axis: int) -> tuple[Factor, ...]:
    return dim if dim[0].is_cut else (Factor(size_of(dim), axis),)


@operation("layout", "stack")
def _stack(call: Call) -> Any:
    bound = call.bind("tensors dim", dim=0)
    tensors = bound["tensors"]
    d = bound["dim"] % (tensors[0].dim() + 1)
    return cat([t.unsqueeze(d) for t in tensors], d, call.mesh, call.name)
