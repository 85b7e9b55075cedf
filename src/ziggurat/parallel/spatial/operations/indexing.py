"""Slices, and rows in another order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.spatial.geometry import Range
from ziggurat.parallel.spatial.layout import Dim, Factor, is_cut, plain, size_of
from ziggurat.parallel.spatial.operations.joining import cat
from ziggurat.parallel.spatial.operations.moments import normal_dims
from ziggurat.parallel.spatial.operations.pointwise import join_factors, local_part
from ziggurat.parallel.spatial.operations.rows import replace_dim, rows_by_index
from ziggurat.parallel.spatial.operations.windows import per_dim, simple_dims
from ziggurat.parallel.spatial.table import Call, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor, gather


def _expand_index(index: Any, x: SpatialTensor) -> list[Any]:
    """Return one item for each dim (and None for new ones); what takes all of a dim is ``slice(None)``."""
    num_dims = len(x.dims)
    items = list(index) if isinstance(index, tuple) else [index]
    used = sum(1 for item in items if item is not None and item is not Ellipsis)
    if Ellipsis not in [item if item is Ellipsis else None for item in items]:
        items.append(Ellipsis)
    place = next(i for i, item in enumerate(items) if item is Ellipsis)
    items = items[:place] + [slice(None)] * (num_dims - used) + items[place + 1 :]
    sizes = iter(x.shape)
    return [item if item is None else _all_or(item, next(sizes)) for item in items]


def _all_or(item: Any, size: int) -> Any:
    return slice(None) if isinstance(item, slice) and item.indices(size) == (0, size, 1) else item


@operation("layout", "getitem")
def _getitem(call: Call) -> Any:
    x, index = call.args
    if not isinstance(x, SpatialTensor) or isinstance(index, SpatialTensor):
        raise call.unsupported("an index that is spread over workers")
    items = _expand_index(index, x)
    d = 0
    x, local_items = _take_cut_dims(x, items, call)
    dims = []
    d = 0
    for item in local_items:
        if item is None:
            dims.append(plain(1))
            continue
        if isinstance(item, slice):
            dims.append(
                x.dims[d] if item == slice(None) else plain(len(range(*item.indices(size_of(x.dims[d])))))
            )
        elif isinstance(item, (Tensor, list, bool)):
            return _advanced(x, local_items, call)
        d += 1
    return SpatialTensor(x.local[tuple(local_items)], tuple(dims), x.mesh)


def _take_cut_dims(x: SpatialTensor, items: list[Any], call: Call) -> tuple[SpatialTensor, list[Any]]:
    """Apply the slices of cut dims, and return what is left to do locally."""
    left: list[Any] = []
    d = 0
    for item in items:
        if item is None:
            left.append(item)
            continue
        if is_cut(x.dims[d]) and item != slice(None):
            x, item = _take_cut_dim(x, d, item, call)
        left.append(item)
        d += 1
    return x, left


def _take_cut_dim(x: SpatialTensor, d: int, item: Any, call: Call) -> tuple[SpatialTensor, Any]:
    x = simple_dims(x, [d], call.name)
    extent = size_of(x.dims[d])
    if not is_cut(x.dims[d]):
        return x, item
    if isinstance(item, int):
        row = item % extent
        return gather(slice_rows(x, d, row, row + 1, 1), call.name, only=[d]), 0
    if isinstance(item, slice):
        start, stop, step = item.indices(extent)
        if step < 1:
            raise call.unsupported("a slice that runs backwards: use flip")
        return slice_rows(x, d, start, max(start, stop), step), slice(None)
    if isinstance(item, Tensor) and item.dtype == torch.bool:
        raise call.unsupported("a mask chooses positions of a dim that is cut")
    return gather(x, call.name, only=[d]), item


def slice_rows(x: SpatialTensor, d: int, start: int, stop: int, step: int) -> SpatialTensor:
    """Return every `step`-th row of a cut dim of one factor."""
    extent = len(range(start, stop, step))

    def source(out: Range) -> Range:
        return start + out[0] * step, start + (out[1] - 1) * step + 1

    def compute(rows: Tensor, out: Range, first: int) -> Tensor:
        if step == 1:
            return rows
        index = [slice(None)] * d + [slice(None, None, step)]
        return rows[tuple(index)]

    if extent == 0:
        x = gather(x, only=[d])
        return replace_dim(x, x.local.narrow(d, 0, 0), d, plain(0))
    return rows_by_index(x, d, extent, source, compute)


def _advanced(x: SpatialTensor, items: list[Any], call: Call) -> SpatialTensor:
    """Index by tensors: where one of them chooses positions of one dim, and that is whole."""
    chosen = [i for i, item in enumerate(items) if isinstance(item, (Tensor, list, bool))]
    rest = [item for i, item in enumerate(items) if i not in chosen]
    if None in rest or any(isinstance(item, int) for item in rest):
        raise call.unsupported("an index that mixes tensors, numbers and None")
    if len(chosen) > 1 and chosen != list(range(chosen[0], chosen[0] + len(chosen))):
        raise call.unsupported("tensors index dims that are not neighbours")
    local = x.local[tuple(items)]
    grown = local.dim() - len(items) + len(chosen)
    dims = []
    place = 0
    for i, item in enumerate(items):
        if i in chosen:
            if i == chosen[0]:
                dims += [plain(size) for size in local.shape[place : place + grown]]
                place += grown
            continue
        dims.append(x.dims[i] if item == slice(None) else plain(local.shape[place]))
        place += 1
    return SpatialTensor(local, tuple(dims), x.mesh)


@operation("layout", "setitem")
def _setitem(call: Call) -> None:
    x, index, value = call.args
    if not isinstance(x, SpatialTensor):
        raise call.unsupported("values that are spread over workers are put into a plain tensor")
    items = _expand_index(index, x)
    if any(item is not None and not isinstance(item, (int, slice)) for item in items):
        raise call.unsupported("values are set by an index that is no slice")
    dims: list[Dim] = []
    lost: list[int] = []  # dims of the values, from the first, that a single row of a cut dim has not
    d = 0
    for place, item in enumerate(items):
        if item is None:
            dims.append(plain(1))
            continue
        if item == slice(None):
            dims.append(x.dims[d])
        elif is_cut(x.dims[d]):
            if isinstance(item, int):
                lost.append(len(dims))
                item = slice(item % size_of(x.dims[d]), item % size_of(x.dims[d]) + 1)
            items[place], dim = _rows_to_set(x, d, item, call)
            dims.append(dim)
        elif isinstance(item, slice):
            dims.append(plain(len(range(*item.indices(size_of(x.dims[d]))))))
        d += 1
    for dim_lost in reversed(lost):
        after = len(dims) - dim_lost - 1
        if isinstance(value, Tensor) and value.dim() > after:
            value = value.unsqueeze(value.dim() - after)
    x.local[tuple(items)] = local_part(value, tuple(dims), x.mesh, call.name)


def _rows_to_set(x: SpatialTensor, d: int, item: slice, call: Call) -> tuple[slice, Dim]:
    """Return which local rows a slice of a cut dim is, and how the values that are set are cut."""
    dim = join_factors(x, d).dims[d]
    factor = dim[0]
    start, stop, step = item.indices(size_of(dim))
    if step < 1 or factor.bounds is None or factor.axis is None or len(dim) > 1:
        raise call.unsupported(
            "values are set in a dim that a reshape has joined, or backwards: reshape it back"
        )
    count = len(range(start, stop, step))
    bounds = tuple(min(max(-((start - bound) // step), 0), count) for bound in factor.bounds)
    rank = x.mesh.ranks[factor.axis]
    first, last = (start + number * step - factor.bounds[rank] for number in bounds[rank : rank + 2])
    rows = slice(first, last, step) if first < last else slice(0, 0)
    return rows, (Factor(count, factor.axis, bounds),)


@operation("layout", "narrow")
def _narrow(call: Call) -> Any:
    bound = call.bind("input dim start length")
    d = bound["dim"] % len(bound["input"].dims)
    items = [slice(None)] * d + [slice(int(bound["start"]), int(bound["start"]) + int(bound["length"]))]
    return bound["input"][tuple(items)]


@operation("layout", "select")
def _select(call: Call) -> Any:
    bound = call.bind("input dim index")
    return bound["input"][(slice(None),) * (bound["dim"] % len(bound["input"].dims)) + (bound["index"],)]


@operation("layout", "unbind")
def _unbind(call: Call) -> Any:
    bound = call.bind("input dim", dim=0)
    x, d = bound["input"], bound["dim"] % len(bound["input"].dims)
    if is_cut(x.dims[d]):
        raise call.unsupported("it takes a dim apart that is cut")
    dims = (*x.dims[:d], *x.dims[d + 1 :])
    return tuple(SpatialTensor(local, dims, x.mesh) for local in x.local.unbind(d))


@operation("layout", "split", "split_with_sizes", "chunk", "tensor_split")
def _split(call: Call) -> Any:
    bound = call.bind("input sizes dim", dim=0)
    x, d = bound["input"], bound["dim"] % len(bound["input"].dims)
    sizes = next(
        bound[n] for n in ("split_size_or_sections", "split_size", "split_sizes", "chunks",
                           "indices_or_sections", "indices", "sections", "sizes") if n in bound
    )  # fmt: skip
    extent = size_of(x.dims[d])
    if call.name == "chunk":
        pieces: list[int] = [len(p) for p in torch.empty(extent, device="meta").chunk(sizes)]
    elif call.name == "tensor_split":
        pieces = [len(p) for p in torch.empty(extent, device="meta").tensor_split(sizes)]
    elif isinstance(sizes, int):
        pieces = [len(p) for p in torch.empty(extent, device="meta").split(sizes)]
    else:
        pieces = [int(size) for size in sizes]
    if not is_cut(x.dims[d]):
        parts = x.local.split(pieces, d)
        return tuple(replace_dim(x, part, d, plain(size)) for part, size in zip(parts, pieces, strict=True))
    start, result = 0, []
    for size in pieces:
        result.append(x[(slice(None),) * d + (slice(start, start + size),)])
        start += size
    return tuple(result)


@operation("layout", "flip")
def _flip(call: Call) -> Any:
    x = call.args[0]
    given = call.named.get("dims", call.args[1] if len(call.args) == 2 else call.args[1:])
    if isinstance(given, (list, tuple)) and not given:
        return x
    for d in normal_dims(given, len(x.dims)):
        x = _flip_dim(simple_dims(x, [d], call.name) if is_cut(x.dims[d]) else x, d)
    return x


def _flip_dim(x: SpatialTensor, d: int) -> SpatialTensor:
    if not is_cut(x.dims[d]):
        return replace_dim(x, x.local.flip(d), d, x.dims[d])
    extent = size_of(x.dims[d])
    return rows_by_index(
        x, d, extent, lambda out: (extent - out[1], extent - out[0]), lambda rows, out, first: rows.flip(d)
    )


@operation("layout", "roll", order="first")
def _roll(call: Call) -> Any:
    bound = call.bind("input shifts dims", dims=None)
    x = bound["input"]
    if bound["dims"] is None:
        raise call.unsupported("it rolls the flattened tensor: give dims")
    shifts = per_dim(bound["shifts"], 1)
    dims = [bound["dims"]] if isinstance(bound["dims"], int) else list(bound["dims"])
    for shift, given in zip(shifts, dims, strict=True):
        d = given % len(x.dims)
        if not is_cut(x.dims[d]):
            x = replace_dim(x, x.local.roll(shift, d), d, x.dims[d])
            continue
        x = simple_dims(x, [d], call.name)
        extent = size_of(x.dims[d])
        place = extent - shift % extent
        if place != extent:
            head, tail = x.split([place, extent - place], d)
            x = cat([tail, head], d, x.mesh, call.name)
    return x


@operation("layout", "index_select")
def _index_select(call: Call) -> Any:
    bound = call.bind("input dim index")
    x, d = bound["input"], bound["dim"] % len(bound["input"].dims)
    if is_cut(x.dims[d]):
        x = gather(x, call.name, only=[d])
    return replace_dim(x, x.local.index_select(d, bound["index"]), d, plain(len(bound["index"])))
