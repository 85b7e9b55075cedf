"""Slices, and rows in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.spatial.geometry import Range
from ziggurat.parallel.spatial.layout import is_cut, plain, size_of
from ziggurat.parallel.spatial.memory import make_meta
from ziggurat.parallel.spatial.operations.joining import cat
from ziggurat.parallel.spatial.operations.moments import normal_dims
from ziggurat.parallel.spatial.operations.rows import replace_dim, rows_by_index
from ziggurat.parallel.spatial.operations.selecting import get_items, parse, set_items
from ziggurat.parallel.spatial.operations.windows import per_dim, simple_dims
from ziggurat.parallel.spatial.strides import channels_last, contiguous, elementwise, suggests_channels_last
from ziggurat.parallel.spatial.table import Call, as_meta, operation, place_of
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


def _views(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Say whether what is chosen is a view: numbers and slices choose views, tensors copies."""
    x, index = call.args
    parsed = parse(index, tuple(x.shape))
    source = as_meta(x)[tuple(parsed.basic)]
    return [source] if parsed.is_basic else [_meta_of_choice(source, parsed.chosen, made[0])]


def _meta_of_choice(source: Tensor, chosen: dict[int, Tensor], made: SpatialTensor) -> Tensor:
    """Return where elements lie that tensors choose: computed element by element, as each tensor lies itself.

    Args:
        source: From which is chosen.
        chosen: As `Index` has it.
        made: The elements.
    """
    widths = {d: item.dim() if item.dtype == torch.bool else 1 for d, item in chosen.items()}
    dims = sorted(d + i for d, width in widths.items() for i in range(width))
    lies = dims[0] if dims[-1] - dims[0] == len(dims) - 1 else 0
    left = [source.stride(d) for d in range(source.dim()) if d not in dims]
    shape, num_dims = tuple(made.shape), made.dim() - len(left)
    operands = [(shape, (*left[:lies], *[0] * num_dims, *left[lies:]))]
    before, after = [1] * lies, [1] * (len(left) - lies)
    for item in chosen.values():
        count = shape[lies + num_dims - 1]  # places of a mask: one after the other
        own, strides = ((count,), (1,)) if item.dtype == torch.bool else place_of(item)
        index = make_meta(own, strides, torch.int64).reshape(*before, *own, *after)
        operands.append((tuple(index.shape), index.stride()))
    return make_meta(shape, elementwise(shape, operands), made.raw.dtype)


@operation("layout", "getitem", views=_views)
def _getitem(call: Call) -> Any:
    x, index = call.args
    parsed = parse(index, tuple(x.shape))
    if not parsed.is_basic or not isinstance(x, SpatialTensor):
        return get_items(call, x, parsed)
    index = tuple(parsed.basic)
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
    raise TypeError(f"an index is a number or a slice here: got {item!r}")


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


@operation("layout", "setitem")
def _setitem(call: Call) -> None:
    set_items(call, *call.args)


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
    x = gather(x, call.name, only=[d])
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


def _views_of_roll(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Say how rolled maps lie in memory: as PyTorch joins a tail and a head, of which one may be empty."""
    (x,) = made
    bound, shape = call.bind("input shifts dims", dims=None), tuple(x.shape)
    if not shape:
        return [None]
    dims = [bound["dims"]] if isinstance(bound["dims"], int) else list(bound["dims"] or [])
    moved = all(s % shape[d] for s, d in zip(per_dim(bound["shifts"], 1), dims, strict=True) if shape[d])
    given = bound["input"].meta
    is_last = moved and suggests_channels_last(shape, given.stride())
    return [make_meta(shape, channels_last(shape) if is_last else contiguous(shape), x.raw.dtype)]


@operation("layout", "roll", views=_views_of_roll)
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
