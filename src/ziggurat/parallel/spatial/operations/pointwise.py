"""Operations on each element alone, and the broadcasting that brings their arguments to one layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.parallel.spatial.exchange import memory_format_of
from ziggurat.parallel.spatial.layout import Dim, Dims, Factor, plain, size_of
from ziggurat.parallel.spatial.mesh import SpatialMesh
from ziggurat.parallel.spatial.sums import reduce_over
from ziggurat.parallel.spatial.table import Call, fallback, operation, wrap
from ziggurat.parallel.spatial.tensor import SpatialTensor, gather, keep_own, recut, slice_local

UNARY = (
    "abs absolute neg negative relu relu6 sigmoid tanh silu gelu elu selu celu leaky_relu hardswish hardsigmoid "
    "hardtanh mish softplus softsign softshrink hardshrink tanhshrink threshold logsigmoid log_sigmoid exp exp2 expm1 "
    "log log2 log10 log1p sqrt rsqrt square reciprocal sin cos tan asin acos atan sinh cosh erf erfc sign sgn floor "
    "ceil round trunc frac clamp clip clamp_min clamp_max isnan isinf isfinite logical_not bitwise_not nan_to_num to "
    "float double half bfloat16 int long bool contiguous clone detach requires_grad alias positive logit sinc "
    "zero fill zeros_like ones_like empty_like full_like pos cpu cuda type deg2rad identity"
)
BINARY = (
    "add sub subtract mul multiply div divide true_divide floor_divide remainder fmod pow rsub rdiv rpow maximum "
    "minimum fmax fmin lerp addcmul addcdiv eq ne lt le gt ge logical_and logical_or logical_xor "
    "bitwise_and bitwise_or bitwise_xor masked_fill copy xlogy hypot atan2 type_as float_power isclose heaviside"
)


def broadcast_dims(operands: Sequence[Any], mesh: SpatialMesh, lead: SpatialTensor | None = None) -> Dims:
    """Return the layout of what is computed from several tensors.

    Args:
        operands: Spatial tensors, plain tensors (whole on every worker) and numbers.
        mesh: The workers.
        lead: Whose layout is kept (an operation in place has no choice).
    """
    tensors = [o for o in operands if isinstance(o, Tensor)]
    shapes = [_shape(o) for o in tensors]
    shape = torch.broadcast_shapes(*shapes)
    if lead is not None and _shape(lead) == tuple(shape):
        return lead.dims
    dims: list[Dim] = []
    used: set[int] = set()
    for d, size in reversed(
        list(enumerate(shape))
    ):  # of dims that one axis cuts, positions win over channels
        candidates = []
        for operand, own in zip(tensors, shapes, strict=True):
            place = d - len(shape) + len(own)
            if isinstance(operand, SpatialTensor) and place >= 0 and own[place] == size:
                candidates.append(operand.dims[place])
        dim = max(candidates, key=_rank, default=plain(size))
        if {f.axis for f in dim if f.is_cut} & used:  # an axis cuts one dim only
            dim = tuple(factor.whole() for factor in dim)
        used |= {f.axis for f in dim if f.is_cut and f.axis is not None}
        dims.append(dim)
    return tuple(reversed(dims))


def _rank(dim: Dim) -> tuple[bool, bool]:
    """Prefer what is cut, then what is spatial; of equals the first."""
    return any(f.is_cut for f in dim), any(f.axis is not None for f in dim)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    if isinstance(tensor, SpatialTensor):
        return tuple(size_of(dim) for dim in tensor.dims)
    return tuple(tensor.shape)


def local_part(operand: Any, dims: Dims, mesh: SpatialMesh, operation: str) -> Any:
    """Return this worker's part of an operand, as `dims` cut it; dims of size 1 are broadcast, and stay."""
    if isinstance(operand, SpatialTensor):
        return align(operand, dims[len(dims) - len(operand.dims) :], operation).local
    if isinstance(operand, Tensor):
        return slice_local(operand, dims, mesh)
    return operand


def align(x: SpatialTensor, dims: Dims, operation: str) -> SpatialTensor:
    """Return a tensor with the layout `dims`, of the same number; dims of size 1 are broadcast, and stay.

    Communication:
        Rows whose owner changes; none where layouts agree or the tensor is whole.
    """
    for d, wanted in enumerate(dims):
        own = x.dims[d]
        if own == wanted or (size_of(own) == 1 and size_of(wanted) != 1):
            continue
        if len(own) > 1 and len(wanted) == 1:
            x = join_factors(x, d)
            own = x.dims[d]
        if len(own) == len(wanted) and all(a.size == b.size for a, b in zip(own, wanted, strict=True)):
            for k, (factor, target) in enumerate(zip(own, wanted, strict=True)):
                if factor.is_cut and (factor.axis != target.axis or not target.is_cut):
                    x = gather(x, operation, only=[d])
                    break
                if factor.is_cut and factor.bounds != target.bounds:
                    x = recut(x, d, k, target.bounds)
        elif any(f.is_cut for f in own):
            x = gather(x, operation, only=[d])
        x = _slice_dim(x, d, wanted)
    return x


def join_factors(x: SpatialTensor, d: int) -> SpatialTensor:
    """Return a tensor one of whose dims is one factor, if it can be without moving rows: if only its first is cut."""
    first, inner = x.dims[d][0], size_of(x.dims[d][1:])
    if any(factor.is_cut for factor in x.dims[d][1:]):
        return x
    bounds = None if first.bounds is None else tuple(bound * inner for bound in first.bounds)
    joined = Factor(first.size * inner, first.axis if first.is_cut else None, bounds)
    return SpatialTensor(x.local, (*x.dims[:d], (joined,), *x.dims[d + 1 :]), x.mesh)


def _slice_dim(x: SpatialTensor, d: int, wanted: Dim) -> SpatialTensor:
    """Give a dim a layout by keeping this worker's part of what is whole."""
    if x.dims[d] == wanted:
        return x
    if all(not f.is_cut for f in x.dims[d]):
        dims = (*x.dims[:d], wanted, *x.dims[d + 1 :])
        only = tuple(wanted if i == d else plain(x.local.shape[i]) for i in range(len(dims)))
        return SpatialTensor(slice_local(x.local, only, x.mesh), dims, x.mesh)
    local = x.local
    for k, (factor, target) in enumerate(zip(x.dims[d], wanted, strict=True)):
        if not factor.is_cut and target.is_cut:
            raise x.mesh.unsupported(
                "alignment", f"a dim is cut in one factor and whole in another ({factor}, {k})"
            )
    return SpatialTensor(local, (*x.dims[:d], wanted, *x.dims[d + 1 :]), x.mesh)


@fallback("pointwise")
def run_pointwise(call: Call) -> Any:
    """Compute a pointwise operation: each worker on its band."""
    args, named = call.args, call.named
    operands = [a for a in (*args, *named.values()) if isinstance(a, Tensor)]
    if len(operands) == 1 and isinstance(operands[0], SpatialTensor):
        x = operands[0]
        local = call.func(
            *(x.local if a is x else a for a in args),
            **{n: x.local if a is x else a for n, a in named.items()},
        )
        return wrap(local, x)
    lead = args[0] if _is_in_place(call) and isinstance(args[0], SpatialTensor) else None
    if lead is None and _is_in_place(call) and isinstance(args[0], Tensor):
        raise call.unsupported("a plain tensor cannot be changed in place by one that is spread over workers")
    dims = broadcast_dims(operands, call.mesh, lead)

    def part(value: Any) -> Any:
        return local_part(value, dims, call.mesh, call.name)

    local = call.func(*map(part, args), **{name: part(value) for name, value in named.items()})
    if lead is not None and local is lead.local:
        return lead
    return SpatialTensor(local, dims, call.mesh)


def _is_in_place(call: Call) -> bool:
    name = getattr(call.func, "__name__", "")
    return (name.endswith("_") and not name.startswith("_")) or name.startswith("__i")


operation("pointwise", *UNARY.split(), *BINARY.split())(run_pointwise)


@operation("pointwise", "prelu")
def _prelu(call: Call) -> Any:
    x, weight = call.args
    return wrap(functional.prelu(x.local, weight), x)


@operation("pointwise", "rrelu")
def _rrelu(call: Call) -> Any:
    bound = call.bind("input lower upper training inplace", training=False)
    if bound["training"]:
        raise call.unsupported("its slopes are not drawn alike on all workers")
    return run_pointwise(call)


@operation("pointwise", "dropout", "alpha_dropout", "feature_alpha_dropout")
def _dropout(call: Call) -> Any:
    """Draw the mask of the whole, on every worker the same, and keep the band's part of it."""
    bound = call.bind("input p training inplace", p=0.5, training=True, inplace=False)
    bound["training"] = bound.pop("train", bound["training"])
    x, p = bound["input"], float(bound["p"])
    if not bound["training"] or p == 0:
        return x
    if call.name != "dropout":
        raise call.unsupported("only dropout without alpha is drawn alike on all workers")
    return _times_mask(x, tuple(_shape(x)), p, bound["inplace"])


@operation("pointwise", "dropout1d", "dropout2d", "dropout3d", "feature_dropout")
def _feature_dropout(call: Call) -> Any:
    bound = call.bind("input p training inplace", p=0.5, training=True, inplace=False)
    x, p = bound["input"], float(bound["p"])
    if not bound["training"] or p == 0:
        return x
    shape = _shape(x)
    return _times_mask(x, (*shape[:2], *(1 for _ in shape[2:])), p, bound["inplace"])


def _times_mask(x: SpatialTensor, shape: tuple[int, ...], p: float, in_place: bool) -> SpatialTensor:
    mask = torch.empty(math.prod(shape), dtype=x.local.dtype, device=x.local.device)
    mask = mask.bernoulli_(1 - p).div_(1 - p) if p < 1 else mask.zero_()
    part = _in_order_of_whole(mask, shape, x)
    return wrap(x.local.mul_(part) if in_place else x.local * part, x)


def _in_order_of_whole(drawn: Tensor, shape: tuple[int, ...], x: SpatialTensor) -> Tensor:
    """Return this worker's part of what was drawn for the whole, in the order in which one worker would have drawn it.

    That is the whole's memory format. The bands of some workers may be laid out otherwise, by chance of their extents, so
    all agree on it; the answer stays on the device, which would be waited for at each dropout otherwise.

    Args:
        drawn: The numbers in the order in which they were drawn, flat.
        shape: Of the whole.
        x: Of whom it is.

    Communication:
        Of maps one all-reduce of one number for each axis.
    """
    contiguous = slice_local(drawn.view(shape), x.dims, x.mesh)
    if len(shape) != 4:
        return contiguous
    batch, channels, height, width = shape
    channels_last = drawn.view(batch, height, width, channels).permute(0, 3, 1, 2)
    is_last = int(memory_format_of(x.local) == torch.channels_last)
    votes = torch.full((), is_last, device=x.local.device)
    for axis in x.mesh.axes:
        votes = reduce_over(votes, axis, "max")
    return torch.where(votes.bool(), slice_local(channels_last, x.dims, x.mesh), contiguous)


@operation("pointwise", "bernoulli", "uniform", "normal", "rand_like", "randn_like")
def _random(call: Call) -> Any:
    """Draw for the whole, on every worker the same, and keep the band's part."""
    x = call.args[0]
    whole = torch.empty(_shape(x), dtype=x.local.dtype, device=x.local.device)
    drawn = call.func(whole, *call.args[1:], **call.named)
    part = slice_local(drawn, x.dims, x.mesh)
    return wrap(x.local.copy_(part), x) if _is_in_place(call) else keep_own(drawn, x.dims, x.mesh)


@operation("pointwise", "new_empty", "new_zeros", "new_ones", "new_full")
def _new(call: Call) -> Any:
    """Make a tensor: with the layout of the given one where the shape is the same, otherwise whole."""
    x, size = call.args[0], call.args[1] if len(call.args) > 1 else call.named["size"]
    rest = call.args[2:]
    if isinstance(size, int):
        stop = len(call.args) - (1 if call.name == "new_full" else 0)
        size, rest = call.args[1:stop], call.args[stop:]
    named = {name: value for name, value in call.named.items() if name != "size"}
    dims = x.dims if tuple(size) == _shape(x) else tuple((Factor(s),) for s in size)
    local = call.func(x.local, [_local(dim, x.mesh) for dim in dims], *rest, **named)
    return SpatialTensor(local, dims, x.mesh)


@operation("pointwise", "new_tensor")
def _new_tensor(call: Call) -> Any:
    """Make a tensor of numbers that every worker has."""
    return call.func(call.args[0].local, *call.args[1:], **call.named)


def _local(dim: Dim, mesh: SpatialMesh) -> int:
    size = 1
    for factor in dim:
        size *= factor.local(mesh.ranks)
    return size
