"""Tensors stood beside each other, repeated, turned and laid along diagonals."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.spatial.layout import Factor, is_cut, plain, simplify
from ziggurat.parallel.spatial.operations.gathering import along, is_in_place, spread
from ziggurat.parallel.spatial.table import Call, operation, wrap
from ziggurat.parallel.spatial.tensor import SpatialTensor, gather, slice_local


@operation("layout", "hstack", "vstack", "row_stack", "dstack", "column_stack")
def _stack(call: Call) -> Any:
    tensors = call.bind("tensors")["tensors"]
    if call.name == "column_stack":
        return torch.cat([t.reshape(-1, 1) if t.dim() <= 1 else t for t in tensors], 1)
    least = {"hstack": 1, "vstack": 2, "row_stack": 2, "dstack": 3}[call.name]
    tensors = [_at_least(t, least) for t in tensors]
    d = {"hstack": 0 if tensors[0].dim() == 1 else 1, "dstack": 2}.get(call.name, 0)
    return torch.cat(tensors, d)


@operation("layout", "atleast_1d", "atleast_2d", "atleast_3d")
def _at_least_so_many_dims(call: Call) -> Any:
    tensors = call.args[0] if isinstance(call.args[0], (tuple, list)) else call.args
    found = tuple(_at_least(spread(t, call.mesh), int(call.name[-2])) for t in tensors)
    return found if len(found) > 1 or tensors is not call.args else found[0]


def _at_least(x: Tensor, num_dims: int) -> Tensor:
    """Return a tensor with new dims where PyTorch puts them: before the others, a third behind them."""
    while x.dim() < num_dims:
        x = x.unsqueeze(-1) if x.dim() == 2 else x.unsqueeze(0)
    return x


@operation("layout", "hsplit", "vsplit", "dsplit")
def _split(call: Call) -> Any:
    x, *given = (*call.args, *call.named.values())
    pieces = given[0] if len(given) == 1 else given  # places one by one
    d = {"hsplit": 0 if x.dim() == 1 else 1, "vsplit": 0, "dsplit": 2}[call.name]
    return torch.tensor_split(x, pieces, d)


@operation("layout", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes")
def _unsafe_split(call: Call) -> Any:
    return (torch.chunk if call.name == "unsafe_chunk" else torch.split)(*call.args, **call.named)


@operation("layout", "broadcast_tensors")
def _broadcast(call: Call) -> Any:
    tensors = call.args[0] if isinstance(call.args[0], (tuple, list)) else call.args
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    made = [spread(t, call.mesh) for t in tensors]
    return tuple(t if tuple(t.shape) == tuple(shape) else t.expand(shape) for t in made)


@operation("layout", "meshgrid")
def _meshgrid(call: Call) -> Any:
    """Lay each tensor along a dim of its own."""
    tensors = list(call.args[0] if isinstance(call.args[0], (tuple, list)) else call.args)
    swapped = call.named.get("indexing", "ij") == "xy" and len(tensors) > 1
    if swapped:
        tensors[:2] = tensors[1::-1]
    shape = [t.numel() for t in tensors]
    grids = [
        spread(t, call.mesh).reshape([-1 if d == place else 1 for d in range(len(shape))]).expand(shape)
        for place, t in enumerate(tensors)
    ]
    if swapped:
        grids[:2] = grids[1::-1]
    return tuple(grids)


@operation("layout", "ravel")
def _ravel(call: Call) -> Any:
    return call.args[0].reshape(-1)


@operation("layout", "adjoint", "get H", "get mH")
def _adjoint(call: Call) -> Any:
    x = call.args[0].transpose(-2, -1)
    return x.conj() if x.is_complex() else x


@operation("layout", "fliplr", "flipud")
def _flip(call: Call) -> Any:
    return call.args[0].flip(1 if call.name == "fliplr" else 0)


@operation("layout", "rot90")
def _rotate(call: Call) -> Any:
    bound = call.bind("input k dims", k=1, dims=(0, 1))
    x, (first, second) = bound["input"], bound["dims"]
    turns = bound["k"] % 4
    if turns == 2:
        return x.flip((first, second))
    if turns == 1:
        return x.flip(second).transpose(first, second)
    return x.flip(first).transpose(first, second) if turns == 3 else x.clone()


@operation("layout", "native_channel_shuffle", order="first")
def _channel_shuffle(call: Call) -> Any:
    return torch.channel_shuffle(*call.args, **call.named)


@operation("layout", "repeat", "tile")
def _repeat(call: Call) -> Any:
    """Lay a tensor several times beside itself: rows move where a dim is cut."""
    x = call.args[0]
    given = call.args[1:] or next(iter(call.named.values()))
    times = [int(n) for n in (given[0] if len(given) == 1 and not isinstance(given[0], int) else given)]
    times = [1] * (len(x.dims) - len(times)) + times
    for _ in range(len(times) - len(x.dims)):
        x = x.unsqueeze(0)
    for d, count in enumerate(times):
        if is_cut(x.dims[d]) and count > 1:
            x = torch.cat([x] * count, d)
    left = [1 if is_cut(dim) and count > 0 else count for dim, count in zip(x.dims, times, strict=True)]
    x = gather(x, call.name, only=[d for d, count in enumerate(left) if count == 0])
    dims = [
        dim if n == 1 else plain(math.prod(f.size for f in dim) * n)
        for dim, n in zip(x.dims, left, strict=True)
    ]
    return SpatialTensor(x.local.repeat(left), tuple(dims), x.mesh)


@operation("layout", "repeat_interleave", order="contiguous")
def _repeat_interleave(call: Call) -> Any:
    """Repeat each row: a row's copies stay with it; by different numbers, all rows are gathered."""
    bound = call.bind("input repeats dim", dim=None)
    x, repeats, d = bound["input"], bound["repeats"], bound["dim"]
    if not isinstance(x, SpatialTensor) or len(call.args) + len(call.named) == 1:
        raise call.unsupported(
            "how often something is repeated is spread over workers", "give a plain tensor of numbers"
        )
    if d is None:
        x, d = x.reshape(-1), 0
    d = d % len(x.dims)
    if isinstance(repeats, Tensor) and repeats.numel() == 1 and not isinstance(repeats, SpatialTensor):
        repeats = int(repeats)
    if isinstance(repeats, int):
        dims = (*x.dims[:d], simplify([*x.dims[d], Factor(repeats)]), *x.dims[d + 1 :])
        return SpatialTensor(x.local.repeat_interleave(repeats, d), dims, x.mesh)
    numbers = (
        gather(repeats, call.name).local if isinstance(repeats, SpatialTensor) else torch.as_tensor(repeats)
    )
    return along(call, x, [d], lambda local: local.repeat_interleave(numbers, d))


@operation("layout", "tril", "triu")
def _triangle(call: Call) -> Any:
    """Keep what lies on one side of a diagonal, by the positions of this worker's rows and columns."""
    bound = call.bind("input diagonal", diagonal=0)
    x = bound["input"]
    rows, columns = (
        slice_local(torch.arange(x.shape[d], device=x.device), (x.dims[d],), x.mesh) for d in (-2, -1)
    )
    above = columns - rows[:, None]
    kept = above <= bound["diagonal"] if call.name == "tril" else above >= bound["diagonal"]
    local = x.local.masked_fill_(~kept, 0) if is_in_place(call) else x.local.masked_fill(~kept, 0)
    return wrap(local, x)


@operation("gather", "diagonal", "linalg_diagonal")
def _diagonal(call: Call) -> Any:
    named = {"dim1": -2, "dim2": -1} if call.name == "linalg_diagonal" else {"dim1": 0, "dim2": 1}
    bound = call.bind("input offset dim1 dim2", offset=0, **named)
    x = bound["input"]
    first, second = (bound[name] % len(x.dims) for name in ("dim1", "dim2"))
    x = gather(x, call.name, only=[first, second])
    local = x.local.diagonal(bound["offset"], first, second)
    rest = [dim for d, dim in enumerate(x.dims) if d not in (first, second)]
    return SpatialTensor(local, (*rest, plain(local.shape[-1])), x.mesh)


@operation("gather", "diag_embed")
def _diag_embed(call: Call) -> Any:
    bound = call.bind("input offset dim1 dim2", offset=0, dim1=-2, dim2=-1)
    x = bound["input"]
    x = gather(x, call.name, only=[len(x.dims) - 1])
    local = torch.diag_embed(x.local, bound["offset"])
    dims = (*x.dims[:-1], plain(local.shape[-2]), plain(local.shape[-1]))
    return SpatialTensor(local, dims, x.mesh).movedim((-2, -1), (bound["dim1"], bound["dim2"]))


@operation("gather", "diag", "diagflat")
def _diag(call: Call) -> Any:
    bound = call.bind("input diagonal", diagonal=0)
    x = bound["input"].reshape(-1) if call.name == "diagflat" else bound["input"]
    return torch.diag_embed(x, bound["diagonal"]) if x.dim() == 1 else torch.diagonal(x, bound["diagonal"])


@operation("gather", "trace")
def _trace(call: Call) -> Any:
    return call.args[0].diagonal().sum()
