"""Operations along dims of which every position is needed at once: gathered there, computed by every worker, cut again.

What several workers compute alike from what all of them have needs nothing more backward. Each has a *part* of its
gradient (see `exchange`), an operation's gradient is linear in that of its result, so each sends back a part of the
input's; `gather` adds them up. Where the result is cut again, a worker's part is zero outside of its own rows.

    x, cut in rows   --gather-->   x, whole   --cumsum-->   y, whole   --own rows-->   y, cut in rows
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.spatial import strides as orders
from ziggurat.parallel.spatial.exchange import memory_format_of
from ziggurat.parallel.spatial.layout import Dim, Dims, plain, size_of
from ziggurat.parallel.spatial.memory import make_meta
from ziggurat.parallel.spatial.mesh import SpatialMesh
from ziggurat.parallel.spatial.operations.moments import largest, normal_dims, reduced, smallest
from ziggurat.parallel.spatial.operations.pointwise import run_pointwise
from ziggurat.parallel.spatial.table import Call, operation, place_of
from ziggurat.parallel.spatial.tensor import SpatialTensor, as_whole, gather, slice_local

# Parameters in their order, and the dim that is meant where none is given (None: all of them).
ALONG: dict[str, tuple[str, int | None]] = {
    "argmax": ("input dim keepdim", None),
    "argmin": ("input dim keepdim", None),
    "argsort": ("input dim", -1),
    "cummax": ("input dim", None),
    "cummin": ("input dim", None),
    "cumprod": ("input dim", None),
    "cumsum": ("input dim", None),
    "cumulative_trapezoid": ("input x dim", -1),
    "glu": ("input dim", -1),
    "kthvalue": ("input k dim", -1),
    "logcumsumexp": ("input dim", None),
    "median": ("input dim", None),
    "mode": ("input dim", -1),
    "msort": ("input dim", 0),
    "nanmedian": ("input dim", None),
    "prod": ("input dim", None),
    "sort": ("input dim", -1),
    "topk": ("input k dim", -1),
}
SORTED = ("argsort", "msort", "sort")


def along(
    call: Call,
    x: SpatialTensor,
    dims: Sequence[int],
    compute: Callable[[Tensor], Any],
    sized: Callable[[int, int], Dim] | None = None,
) -> Any:
    """Compute along some dims, each position of which the operation needs.

    Args:
        call: Says under which name it is counted.
        x: The input.
        dims: Along which it is computed; gathered where they are cut.
        compute: From the local tensor, whole along `dims`, to a tensor, or several.
        sized: From a dim and its size in the result to its layout, where the operation has changed the size; whole on
            every worker by default.

    Returns:
        What `compute` returns, spread: with all dims, or without `dims`. Dims of the input's size are cut as the input is.

    Communication:
        All rows to every worker, of the dims that are cut; none where no dim is.
    """
    whole = gather(x, call.name, only=dims)

    def laid_out(result: Tensor) -> SpatialTensor:
        if result.dim() < len(x.dims):
            return SpatialTensor(result, reduced(x, dims, False), x.mesh)
        wanted = list(x.dims)
        for d in dims:
            if result.shape[d] != size_of(x.dims[d]):
                wanted[d] = plain(result.shape[d]) if sized is None else sized(d, result.shape[d])
        return own_part(result, wanted, x.mesh, dims)

    return put_back(call, of_each(compute(whole.local), laid_out))


def is_in_place(call: Call) -> bool:
    """Whether an operation changes its first argument."""
    name = getattr(call.func, "__name__", "")
    return name.endswith("_") and not name.startswith("__")


def put_back(call: Call, result: Any) -> Any:
    """Return an operation's result; that of one in place is written into what was given first, and that is returned."""
    if not is_in_place(call):
        return result
    first: SpatialTensor = call.args[0]
    if result.local is not first.local:
        first.local.copy_(result.local)
    return first


def own_part(whole: Tensor, dims: Sequence[Dim], mesh: SpatialMesh, only: Sequence[int]) -> SpatialTensor:
    """Return this worker's part of a tensor that is whole along the dims `only`, in memory of its own."""
    shape = whole.shape
    chosen = tuple(dim if d in only else plain(shape[d]) for d, dim in enumerate(dims))
    part = slice_local(whole, chosen, mesh)
    if part.shape != shape:
        part = part.contiguous(memory_format=memory_format_of(whole))
    return SpatialTensor(part, tuple(dims), mesh)


def spread(x: Tensor, mesh: SpatialMesh) -> SpatialTensor:
    """Return a spread tensor as it is, and a plain one as what every worker has whole."""
    return x if isinstance(x, SpatialTensor) else as_whole(x, mesh)


def of_each(results: Any, function: Callable[[Tensor], Any]) -> Any:
    """Apply a function to each tensor of what an operation has returned: one, or a tuple of them, of any type."""
    if isinstance(results, Tensor):
        return function(results)
    if not isinstance(results, (tuple, list)):
        return results
    found = [of_each(result, function) for result in results]
    return tuple(found) if type(results) is tuple else type(results)(found)


def with_locals(call: Call, replaced: Callable[[SpatialTensor], Any]) -> Any:
    """Call an operation with something in the place of each spread argument, also of those in lists and tuples."""

    def put(value: Any) -> Any:
        if isinstance(value, SpatialTensor):
            return replaced(value)
        return of_each(value, put) if isinstance(value, (tuple, list)) else value

    return call.func(*map(put, call.args), **{name: put(value) for name, value in call.named.items()})


def run_whole(call: Call) -> Any:
    """Compute from all of every argument, and keep of results of the first one's shape what that one has.

    Communication:
        All rows of all arguments that are cut, to every worker.
    """
    first: SpatialTensor | None = None

    def put(value: SpatialTensor) -> Tensor:
        nonlocal first
        first = value if first is None else first
        return gather(value, call.name).local

    def laid_out(result: Tensor) -> SpatialTensor:
        assert first is not None
        if result.shape == first.shape:
            return own_part(result, first.dims, call.mesh, range(result.dim()))
        return as_whole(result, call.mesh)

    return put_back(call, of_each(with_locals(call, put), laid_out))


def _order_of_sorted(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Let what is sorted lie as the input does, if that is dense: also dims of one element, of which the meta device says otherwise."""
    x, shape = call.args[0] if call.args else call.named["input"], tuple(made[0].shape)
    own, strides = place_of(x)
    found = strides if orders.is_dense(own, strides) else orders.elementwise(own, [(own, strides)])
    return [make_meta(shape, found, one.raw.dtype) for one in made]


@operation("gather", *(name for name in ALONG if name not in SORTED))
@operation("gather", *SORTED, views=_order_of_sorted)
def _along(call: Call) -> Any:
    names, default = ALONG[call.name]
    bound = call.bind(names, dim=default)
    x, dim = bound["input"], bound.get("axis", bound["dim"])
    others = [value for value in (*call.args, *call.named.values()) if isinstance(value, SpatialTensor)]
    if not isinstance(x, SpatialTensor) or len(others) > 1:
        return run_whole(call)
    return along(call, x, normal_dims(dim, len(x.dims)), lambda local: with_locals(call, lambda value: local))


@operation("gather", "quantile", "nanquantile")
def _quantile(call: Call) -> Any:
    bound = call.bind("input q dim keepdim", dim=None, keepdim=False)
    x, q = bound["input"], bound["q"]
    dims = normal_dims(bound["dim"], len(x.dims))
    named = {"interpolation": bound.get("interpolation", "linear"), "keepdim": bound["keepdim"]}
    weights = gather(q, call.name).local if isinstance(q, SpatialTensor) else q
    local = call.func(gather(x, call.name, only=dims).local, weights, bound["dim"], **named)
    several: Dims = (plain(len(q)),) if isinstance(q, Tensor) and q.dim() else ()
    return SpatialTensor(local, (*several, *reduced(x, dims, bound["keepdim"])), x.mesh)


def _order_of_the_larger(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Say how the larger ones of two tensors lie in memory; of one tensor, results are contiguous."""
    operands = [a for a in (*call.args, *call.named.values()) if isinstance(a, Tensor)]
    if len(operands) < 2:
        return [None] * len(made)
    (x,) = made
    found = orders.elementwise(tuple(x.shape), [place_of(operand) for operand in operands])
    return [make_meta(tuple(x.shape), found, x.raw.dtype)]


@operation("moments", "max", "min", views=_order_of_the_larger)
def _max(call: Call) -> Any:
    """Three operations have this name: of all elements, of one dim with indices, and of two tensors."""
    second = call.args[1] if len(call.args) > 1 else call.named.get("other", call.named.get("dim"))
    if isinstance(second, Tensor):
        return run_pointwise(call)
    x = call.args[0] if call.args else call.named["input"]
    if second is None:
        dims = tuple(range(len(x.dims)))
        return (largest if call.name == "max" else smallest)(x, dims, False)
    dims = normal_dims(second, len(x.dims))
    return along(call, x, dims, lambda local: with_locals(call, lambda value: local))


@operation(
    "gather", "unique", "unique_consecutive", "bincount", "histc", "histogram", "corrcoef", "cov", "equal", "allclose",
    "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "nms", "block_diag", "cartesian_prod", "combinations", "istft", "stft", "pdist",
    "pad_sequence",
)  # fmt: skip
@operation("gather", "renorm", order="contiguous")
def _whole(call: Call) -> Any:
    return run_whole(call)


@operation("layout", "diff")
def _diff(call: Call) -> Any:
    """Subtract neighbours: a slice of rows from a slice of rows."""
    bound = call.bind("input n dim prepend append", n=1, dim=-1, prepend=None, append=None)
    x = bound["input"]
    d = bound["dim"] % x.dim()
    ends = [t for t in (bound["prepend"], x, bound["append"]) if t is not None]
    x = torch.cat(ends, d) if len(ends) > 1 else x
    for _ in range(min(bound["n"], x.shape[d])):
        later, earlier = x.narrow(d, 1, x.shape[d] - 1), x.narrow(d, 0, x.shape[d] - 1)
        x = later != earlier if x.dtype == torch.bool else later - earlier
    return x
