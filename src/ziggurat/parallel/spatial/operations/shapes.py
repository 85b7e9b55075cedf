"""Views: dims permuted, split, joined and broadcast; a cut stays with the factor that it cuts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.spatial.layout import Dim, Dims, Factor, plain, plan_reshape, simplify, size_of
from ziggurat.parallel.spatial.operations.rows import with_multiples
from ziggurat.parallel.spatial.table import Call, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor, gather, ranks_shape


def _shape_argument(call: Call, start: int = 1) -> list[int]:
    given: Any = call.args[start:]
    if not given:
        given = call.named.get("shape", call.named.get("size", call.named.get("sizes")))
    elif len(given) == 1 and isinstance(given[0], (tuple, list)):
        given = given[0]
    return [int(size) for size in given]


@operation("layout", "reshape", "view")
def _reshape(call: Call) -> Any:
    x = call.args[0]
    if len(call.args) == 2 and not isinstance(call.args[1], (int, tuple, list)):  # view(dtype)
        return SpatialTensor(x.local.view(call.args[1]), x.dims, x.mesh)
    return reshape(x, _shape_argument(call))


def reshape(x: SpatialTensor, shape: list[int]) -> SpatialTensor:
    """Return a tensor with the whole's elements in another shape.

    Communication:
        None, except the rows that change their owner where a factor is split at what is no multiple of its cuts.
    """
    if 0 in x.shape:  # without elements nothing is cut
        whole = torch.empty(tuple(x.shape), device="meta").reshape(shape)
        return SpatialTensor(x.local.reshape(whole.shape), tuple(map(plain, whole.shape)), x.mesh)
    if -1 in shape:
        known = 1
        for size in shape:
            known *= size if size != -1 else 1
        shape = [x.numel() // known if size == -1 else size for size in shape]
    if tuple(shape) == tuple(x.shape):
        return x
    try:
        splits, joins = plan_reshape(x.dims, shape)
    except ValueError:
        x = gather(x, "reshape")
        return SpatialTensor(x.local.reshape(shape), tuple(plain(size) for size in shape), x.mesh)
    for split in splits:
        x = with_multiples(x, split.dim, split.place, split.multiple)
    pieces: list[Factor] = []
    for split in splits:
        factor = x.dims[split.dim][split.place]
        for number, size in enumerate(split.sizes):
            if number != split.leading:
                pieces.append(Factor(size))
            elif factor.bounds is None:
                pieces.append(Factor(size, factor.axis))
            else:
                bounds = tuple(bound // split.multiple for bound in factor.bounds)
                pieces.append(Factor(size, factor.axis, bounds))
    dims: Dims = tuple(simplify([pieces[i] for i in numbers]) if numbers else plain(1) for numbers in joins)
    result = SpatialTensor.__new__(SpatialTensor, x.local, dims, x.mesh)
    return SpatialTensor(x.local.reshape(ranks_shape(result)), dims, x.mesh)


@operation("layout", "view_as", "reshape_as")
def _view_as(call: Call) -> Any:
    x, shape = call.args[0], list(call.args[1].shape)
    return reshape(x, shape) if isinstance(x, SpatialTensor) else x.reshape(shape)


@operation("layout", "flatten")
def _flatten(call: Call) -> Any:
    bound = call.bind("input start_dim end_dim", start_dim=0, end_dim=-1)
    x = bound["input"]
    start, end = bound["start_dim"] % len(x.dims), bound["end_dim"] % len(x.dims)
    shape = list(x.shape)
    count = 1
    for size in shape[start : end + 1]:
        count *= size
    return reshape(x, [*shape[:start], count, *shape[end + 1 :]])


@operation("layout", "unflatten")
def _unflatten(call: Call) -> Any:
    bound = call.bind("input dim sizes")
    x, d = bound["input"], bound["dim"] % len(bound["input"].dims)
    sizes = list(bound["sizes"])
    if -1 in sizes:
        known = 1
        for size in sizes:
            known *= size if size != -1 else 1
        sizes[sizes.index(-1)] = x.shape[d] // known
    return reshape(x, [*x.shape[:d], *sizes, *x.shape[d + 1 :]])


def _with_dims(x: SpatialTensor, local: Tensor, dims: list[Dim]) -> SpatialTensor:
    return SpatialTensor(local, tuple(dims), x.mesh)


@operation("layout", "permute")
def _permute(call: Call) -> Any:
    x, order = call.args[0], _permutation(call)
    order = [d % len(x.dims) for d in order]
    return _with_dims(x, x.local.permute(order), [x.dims[d] for d in order])


def _permutation(call: Call) -> list[int]:
    return list(call.named["dims"]) if "dims" in call.named else _shape_argument(call)


@operation("layout", "transpose", "swapaxes", "swapdims")
def _transpose(call: Call) -> Any:
    bound = call.bind("input dim0 dim1")
    x = bound["input"]
    first, second = bound["dim0"] % len(x.dims), bound["dim1"] % len(x.dims)
    dims = list(x.dims)
    dims[first], dims[second] = dims[second], dims[first]
    return _with_dims(x, x.local.transpose(first, second), dims)


@operation("layout", "t", "get T", "get mT")
def _t(call: Call) -> Any:
    x = call.args[0]
    return x.transpose(-2, -1) if len(x.dims) >= 2 else x


@operation("layout", "movedim", "moveaxis")
def _movedim(call: Call) -> Any:
    bound = call.bind("input source destination")
    x, n = bound["input"], len(bound["input"].dims)
    source, target = (
        [v % n] if isinstance(v, int) else [i % n for i in v] for v in (bound["source"], bound["destination"])
    )
    rest = iter(d for d in range(n) if d not in source)
    places = dict(zip(target, source, strict=True))
    order = [places[d] if d in places else next(rest) for d in range(n)]
    return x.permute(order)


@operation("layout", "unsqueeze")
def _unsqueeze(call: Call) -> Any:
    bound = call.bind("input dim")
    x = bound["input"]
    d = bound["dim"] % (len(x.dims) + 1)
    return _with_dims(x, x.local.unsqueeze(d), [*x.dims[:d], plain(1), *x.dims[d:]])


@operation("layout", "squeeze")
def _squeeze(call: Call) -> Any:
    bound = call.bind("input dim", dim=None)
    x, given = bound["input"], bound["dim"]
    n = len(x.dims)
    chosen = range(n) if given is None else [given % n] if isinstance(given, int) else [d % n for d in given]
    gone = [d for d in chosen if size_of(x.dims[d]) == 1]
    return _with_dims(x, x.local.squeeze(tuple(gone)), [dim for d, dim in enumerate(x.dims) if d not in gone])


@operation("layout", "expand", "expand_as", "broadcast_to")
def _expand(call: Call) -> Any:
    x = call.args[0]
    like = call.args[1] if call.name == "expand_as" else None
    if like is not None and not isinstance(x, SpatialTensor):
        return x.expand(like.shape)
    shape = list(like.shape) if like is not None else _shape_argument(call)
    lead = len(shape) - len(x.dims)
    dims: list[Dim] = []
    for d, size in enumerate(shape):
        own = x.dims[d - lead] if d >= lead else plain(1)
        if size in (-1, size_of(own)):
            dims.append(own)
        elif isinstance(like, SpatialTensor):
            dims.append(like.dims[d])
        else:
            dims.append(plain(size))
    layout = tuple(dims)
    wanted = ranks_shape(SpatialTensor.__new__(SpatialTensor, x.local, layout, x.mesh))
    return SpatialTensor(x.local.expand(wanted), layout, x.mesh)


@operation("layout", "channel_shuffle", order="first")
def _channel_shuffle(call: Call) -> Any:
    bound = call.bind("input groups")
    x, groups = bound["input"], bound["groups"]
    batch, channels, *rest = x.shape
    opened = x.reshape(batch, groups, channels // groups, *rest).transpose(1, 2)
    return opened.reshape(batch, channels, *rest)
