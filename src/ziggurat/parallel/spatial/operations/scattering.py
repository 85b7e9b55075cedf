"""Elements gathered from one dim, and scattered into one, by an index for each position of the others.

Along the other dims nothing is mixed: what one argument is cut at, all are. Along the dim itself the index may be cut (of
what is gathered, the result is cut alike), and what is looked into is gathered; few elements are looked up by the worker
that has them, and added up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.spatial.layout import Dim, is_cut, plain, size_of
from ziggurat.parallel.spatial.memory import make_meta
from ziggurat.parallel.spatial.operations.adopting import adopt
from ziggurat.parallel.spatial.operations.gathering import is_in_place, own_part, put_back, run_whole, spread
from ziggurat.parallel.spatial.operations.pointwise import align, run_pointwise
from ziggurat.parallel.spatial.operations.selecting import (
    has_empty_band,
    look_up,
    own_places,
    positions,
    put_items,
)
from ziggurat.parallel.spatial.strides import in_order
from ziggurat.parallel.spatial.table import Call, like_its_first, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor, add_up, as_whole, gather


def _side_by_side(
    tensors: Sequence[SpatialTensor], d: int, call: Call, leads: bool = False
) -> list[SpatialTensor]:
    """Return tensors that are cut alike along all dims but one, and whole where their sizes differ.

    Args:
        tensors: Of the same number of dims.
        d: The dim along which each is as it is, unless an axis that cuts it cuts another dim, too.
        call: Says under which name is counted what had to be gathered.
        leads: Whether the first one is left as it is where sizes do not differ.
    """
    found = list(tensors)
    used: set[int] = set()
    for place in range(len(found[0].dims)):
        dims = [t.dims[place] for t in found]
        if place == d:
            continue
        if any(size_of(dim) != size_of(dims[0]) for dim in dims):
            found = [gather(t, call.name, only=[place]) for t in found]
            continue
        wanted = dims[0] if leads else next((dim for dim in dims if is_cut(dim)), dims[0])
        if _axes(wanted) & used:  # an axis cuts one dim only
            wanted = tuple(f.whole() for f in wanted)
        used |= _axes(wanted)
        found = [align(t, (*t.dims[:place], wanted, *t.dims[place + 1 :]), call.name) for t in found]
    return [gather(t, call.name, only=[d]) if _axes(t.dims[d]) & used else t for t in found]


def _axes(dim: Dim) -> set[int]:
    """Return the axes that cut a dim."""
    return {factor.axis for factor in dim if factor.is_cut and factor.axis is not None}


def _into(
    call: Call, x: SpatialTensor, d: int, others: Sequence[SpatialTensor], compute: Callable[..., Tensor]
) -> SpatialTensor:
    """Scatter into a dim that is whole on every worker, and keep of the result what this worker had.

    Args:
        call: In place, or not.
        x: What is scattered into.
        d: The dim.
        others: What is scattered, and where to.
        compute: From the local parts, whole along `d`, to that of the result.
    """
    together = _side_by_side([x, *others], d, call, leads=is_in_place(call))
    x_now, *rest = (gather(t, call.name, only=[d]) for t in together)
    local = compute(x_now.local, *(t.local for t in rest))
    dims, taken = list(x_now.dims), set().union(*map(_axes, x_now.dims))
    for place, dim in enumerate(x.dims):
        if is_cut(dim) and not is_cut(dims[place]) and not _axes(dim) & taken:
            dims[place] = dim
    changed = [place for place, dim in enumerate(dims) if dim != x_now.dims[place]]
    result: SpatialTensor = put_back(call, own_part(local, dims, call.mesh, changed))
    return result


@operation("gather", "gather")
def _gather(call: Call) -> Any:
    bound = call.bind("input dim index")
    x, index = spread(bound["input"], call.mesh), spread(bound["index"], call.mesh)
    d = bound["dim"] % max(1, len(x.dims))
    x, index = _side_by_side([x, index], d, call) if x.dims else (x, index)
    if not x.dims:
        return SpatialTensor(x.local.gather(0, index.local), index.dims, x.mesh)
    few = x.dtype.is_floating_point and size_of(index.dims[d]) < size_of(x.dims[d])
    if is_cut(x.dims[d]) and not is_cut(index.dims[d]) and few and not has_empty_band(x.dims[d]):
        mine, place = own_places(x.dims[d], index.local, x.mesh)
        local = x.local.gather(d, place).where(mine, 0)
        axes = [f.axis for f in x.dims[d] if f.is_cut and f.axis is not None]
        return SpatialTensor(add_up(local, x.mesh, axes), index.dims, x.mesh)
    x = gather(x, call.name, only=[d])
    return SpatialTensor(x.local.gather(d, index.local), index.dims, x.mesh)


@operation("gather", "take_along_dim")
def _take_along_dim(call: Call) -> Any:
    bound = call.bind("input indices dim", dim=None)
    x, index = spread(bound["input"], call.mesh), spread(bound["indices"], call.mesh)
    if bound["dim"] is None:
        return torch.gather(x.reshape(-1), 0, index.reshape(-1))
    d = bound["dim"] % x.dim()
    shape = list(torch.broadcast_shapes(_but_one(x.shape, d), _but_one(index.shape, d)))
    x = spread(x.expand(*shape[:d], x.shape[d], *shape[d + 1 :]), call.mesh)
    index = spread(index.where(index >= 0, index + x.shape[d]), call.mesh)  # counted from the end
    return torch.gather(x, d, index.expand(*shape[:d], index.shape[d], *shape[d + 1 :]))


def _but_one(shape: Sequence[int], d: int) -> list[int]:
    return [1 if place == d else size for place, size in enumerate(shape)]


@operation("gather", "take")
def _take(call: Call) -> Any:
    bound = call.bind("input index")
    return spread(bound["input"], call.mesh).reshape(-1)[bound["index"]]


@operation("gather", "index_select")
def _index_select(call: Call) -> Any:
    bound = call.bind("input dim index")
    x = spread(bound["input"], call.mesh)
    index = bound["index"]
    return look_up(call, x, {bound["dim"] % len(x.dims): index.reshape(-1)})


@operation("gather", "masked_select")
def _masked_select(call: Call) -> Any:
    bound = call.bind("input mask")
    x, mask = spread(bound["input"], call.mesh), spread(bound["mask"], call.mesh)
    shape = torch.broadcast_shapes(x.shape, mask.shape)
    return x.expand(shape)[mask.expand(shape)]


def _dim_by_dim(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Say how places lie in memory: first those along the first dim, then those along the second."""
    return [make_meta(tuple(x.shape), in_order(x.shape, range(x.dim())), x.raw.dtype) for x in made]


@operation("gather", "nonzero", "argwhere", views=_dim_by_dim)
def _nonzero(call: Call) -> Any:
    """Return the places of what is not zero, whole on every worker: only whether they are is gathered."""
    bound = call.bind("input", as_tuple=False)
    places = positions({0: bound["input"] != 0}, call)
    each: list[Tensor] = [as_whole(places[d], call.mesh) for d in sorted(places)]
    return tuple(each) if bound["as_tuple"] else torch.stack(each, 1)


def _views_of_where(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Say where places lie; what is chosen between two lies as what is computed element by element."""
    return _dim_by_dim(call, made) if _is_alone(call) else [None] * len(made)


def _is_alone(call: Call) -> bool:
    return len(call.args) + len(call.named) == 1


@operation("pointwise", "where", views=_views_of_where)
def _where(call: Call) -> Any:
    """Choose between two, element by element; with a condition alone, return where it is true."""
    if _is_alone(call):
        condition = call.bind("condition")["condition"]
        return condition.nonzero(as_tuple=True)
    return run_pointwise(call)


@operation("gather", "scatter", "scatter_add", "scatter_reduce")
def _scatter(call: Call) -> Any:
    """Compute along the whole dim on every worker, of which each keeps its rows."""
    bound = call.bind("input dim index src reduce")
    given, index = bound.pop("input"), spread(bound.pop("index"), call.mesh)
    source = bound.pop("src", bound.pop("value", None))
    d = bound.pop("dim") % max(1, given.dim())
    x = _lead(call, given, index, d)
    others = [index]
    if isinstance(source, Tensor) and source.dim():
        others.append(_as_large(spread(source, call.mesh), index.shape))
    return _into(
        call, x, d, others, lambda local, i, *src: call.func(local, d, i, *(src or [source]), **bound)
    )


def _as_large(x: SpatialTensor, shape: Sequence[int]) -> SpatialTensor:
    """Return the first rows of each dim: what is scattered may be larger than its index."""
    for d, size in enumerate(shape):
        x = x if x.shape[d] == size else spread(x.narrow(d, 0, size), x.mesh)
    return x


@operation("gather", "index_add", "index_copy", "index_reduce", order="contiguous")
def _index_add(call: Call) -> Any:
    bound = call.bind("input dim index source reduce")
    given, index, source = bound.pop("input"), bound.pop("index"), spread(bound.pop("source"), call.mesh)
    d = bound.pop("dim") % given.dim()
    numbers = gather(index, call.name).local if isinstance(index, SpatialTensor) else index
    x = _lead(call, given, source, d)
    return _into(call, x, d, [source], lambda local, values: call.func(local, d, numbers, values, **bound))


@operation("layout", "select_scatter", "slice_scatter")
def _scatter_into_a_copy(call: Call) -> Any:
    """Copy a tensor, and put another one into a slice of the copy."""
    if call.name == "select_scatter":
        bound = call.bind("input src dim index")
        chosen: Any = bound["index"]
    else:
        bound = call.bind("input src dim start end step", dim=0, start=None, end=None, step=1)
        chosen = slice(bound["start"], bound["end"], bound["step"])
    out = spread(bound["input"], call.mesh).clone()
    out[(slice(None),) * (bound["dim"] % out.dim()) + (chosen,)] = bound["src"]
    return out


@operation("gather", "index_fill", views=like_its_first)
def _index_fill(call: Call) -> Any:
    bound = call.bind("input dim index value")
    x, value = _lead(call, bound["input"], None, 0), bound["value"]
    out = x if is_in_place(call) else spread(x.clone(), call.mesh)
    put_items(call, out, {bound["dim"] % len(x.dims): bound["index"].reshape(-1)}, value)
    return out


@operation("gather", "index_put")
def _index_put(call: Call) -> Any:
    bound = call.bind("input indices values accumulate", accumulate=False)
    x = _lead(call, bound["input"], None, 0)
    out = x if is_in_place(call) else spread(x.clone(), call.mesh)
    chosen, d = {}, 0
    for item in bound["indices"]:
        if item is not None:
            chosen[d] = item
        d += item.dim() if item is not None and item.dtype == torch.bool else 1
    put_items(call, out, chosen, bound["values"], bool(bound["accumulate"]))
    return out


@operation("gather", "masked_scatter", "put")
def _from_a_row(call: Call) -> Any:
    """Take values one after the other, wherever they go: all of every argument is needed."""
    if not isinstance(call.args[0], SpatialTensor):
        _lead(call, call.args[0], None, 0)
    return run_whole(call)


def _lead(call: Call, x: Tensor, like: SpatialTensor | None, d: int) -> SpatialTensor:
    """Return what is scattered into; a plain tensor is adopted where it is changed in place, cut as `like` beside `d`."""
    if isinstance(x, SpatialTensor):
        return x
    if not is_in_place(call):
        return as_whole(x, call.mesh)
    dims: list[Dim] = [plain(size) for size in x.shape]
    if like is not None:
        dims = [
            own if place == d or size_of(own) != size_of(theirs) else theirs
            for place, (own, theirs) in enumerate(zip(dims, like.dims, strict=True))
        ]
    return adopt(call, x, tuple(dims))
