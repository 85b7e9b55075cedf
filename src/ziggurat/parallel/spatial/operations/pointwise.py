"""Operations on each element alone, and the broadcasting that brings their arguments to one layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.parallel.spatial.layout import Dim, Dims, Factor, cuts, plain, shape_of, size_of
from ziggurat.parallel.spatial.memory import empty_whole, make_meta, share_memory
from ziggurat.parallel.spatial.mesh import SpatialMesh
from ziggurat.parallel.spatial.operations.adopting import adopt, belongs_to_network
from ziggurat.parallel.spatial.table import Call, its_input, operation, wrap
from ziggurat.parallel.spatial.tensor import SpatialTensor, gather, keep_own, put_local, recut, slice_local

UNARY = (
    "abs absolute neg negative relu relu6 sigmoid tanh silu gelu elu selu celu leaky_relu hardswish hardsigmoid "
    "hardtanh mish softplus softsign softshrink hardshrink tanhshrink threshold exp exp2 expm1 "
    "log log2 log10 log1p sqrt rsqrt square reciprocal sin cos tan asin acos atan sinh cosh erf erfc sign sgn floor "
    "ceil round trunc frac clamp clip clamp_min clamp_max isnan isinf isfinite logical_not bitwise_not nan_to_num "
    "clone requires_grad logit sinc zero fill zeros_like ones_like empty_like full_like pos deg2rad"
)
BINARY = (
    "add sub subtract mul multiply div divide true_divide floor_divide remainder fmod pow rsub rdiv rpow maximum "
    "minimum fmax fmin lerp addcmul addcdiv eq ne lt le gt ge logical_and logical_or logical_xor "
    "bitwise_and bitwise_or bitwise_xor copy xlogy hypot atan2 float_power isclose heaviside"
)


def broadcast_dims(operands: Sequence[Any], mesh: SpatialMesh, lead: SpatialTensor | None = None) -> Dims:
    """Return the layout of what is computed from several tensors.

    Args:
        operands: Spatial tensors, plain tensors (whole on every worker) and numbers.
        mesh: The workers.
        lead: Whose layout is kept (an operation in place has no choice).
    """
    tensors = [o for o in operands if isinstance(o, Tensor)]
    if tensors and isinstance(tensors[0], SpatialTensor):
        dims_of_first = tensors[0].dims
        if all(isinstance(o, SpatialTensor) and o.dims == dims_of_first for o in tensors[1:]):
            return dims_of_first
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
        return shape_of(tensor.dims)
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
        if not _stays(x.dims[d], wanted):
            x = _gather_where_cut_otherwise(x, d, wanted, operation)
    for d, wanted in enumerate(dims):  # afterwards: an axis that cuts one dim now may have cut another
        if not _stays(x.dims[d], wanted):
            x = _slice_dim(x, d, wanted)
    return x


def _stays(own: Dim, wanted: Dim) -> bool:
    return own == wanted or (size_of(own) == 1 and size_of(wanted) != 1)


def _gather_where_cut_otherwise(x: SpatialTensor, d: int, wanted: Dim, operation: str) -> SpatialTensor:
    own = x.dims[d]
    if len(own) > 1 and len(wanted) == 1:
        x = join_factors(x, d)
        own = x.dims[d]
    if len(own) == len(wanted) and all(a.size == b.size for a, b in zip(own, wanted, strict=True)):
        for k, (factor, target) in enumerate(zip(own, wanted, strict=True)):
            if factor.is_cut and (factor.axis != target.axis or not target.is_cut):
                return gather(x, operation, only=[d])
            if factor.is_cut and factor.bounds != target.bounds:
                x = recut(x, d, k, target.bounds)
        return x
    return gather(x, operation, only=[d]) if any(f.is_cut for f in own) else x


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
        return local if local is NotImplemented else wrap(local, x)  # then the other operand is asked
    lead = args[0] if call.is_in_place and isinstance(args[0], SpatialTensor) else None
    if lead is None and call.is_in_place and isinstance(args[0], Tensor):
        return _change_plain(call)
    dims = broadcast_dims(operands, call.mesh, lead)

    def part(value: Any) -> Any:
        found = local_part(value, dims, call.mesh, call.name)
        if lead is None or value is lead or not isinstance(found, Tensor):
            return found
        # the same elements, or it were refused; PyTorch refuses other strides, also of dims of which a worker has one element
        return found.clone() if share_memory(found, lead.local) else found

    local = call.func(*map(part, args), **{name: part(value) for name, value in named.items()})
    if lead is not None and local is lead.local:
        return lead
    return SpatialTensor(local, dims, call.mesh)


def _change_plain(call: Call) -> Any:
    """Change a plain tensor in place, by spread ones: it becomes a spread one, but for what belongs to the network."""
    x, *rest = call.args
    given = [a for a in (*rest, *call.named.values()) if isinstance(a, SpatialTensor)]
    if not belongs_to_network(x):
        dims = broadcast_dims([make_meta(tuple(x.shape), x.stride(), x.dtype), *given], call.mesh)
        adopt(call, x, dims)
        return run_pointwise(call)
    if any(cuts(a.dims) or (a.requires_grad and torch.is_grad_enabled()) for a in given):
        raise call.unsupported(
            "a parameter or a buffer is changed in place by values that are spread over workers, or have a gradient",
            "change it by a sum or a mean over positions, detached",
        )
    return call.func(
        *(a.local if isinstance(a, SpatialTensor) else a for a in call.args),
        **{name: a.local if isinstance(a, SpatialTensor) else a for name, a in call.named.items()},
    )


operation("pointwise", *UNARY.split(), *BINARY.split())(run_pointwise)
operation("pointwise", "masked_fill", "logsigmoid", "log_sigmoid", order="contiguous")(run_pointwise)
operation("layout", "detach", "alias", "positive")(run_pointwise)


def _views_of_casts(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Say whether a cast is its input: if it has the type, and lies as it is asked for, on the whole."""
    (x,), (cast,) = [a for a in call.args[:1] if isinstance(a, SpatialTensor)], made
    order = call.named.get("memory_format", torch.preserve_format)
    same = cast.local.dtype == x.local.dtype and cast.local.device == x.local.device
    flags = [a for a in call.args[1:] if isinstance(a, bool)]  # non_blocking, copy
    is_copy = not same or bool(call.named.get("copy", flags[1:2] == [True]))
    return [x.meta.to(cast.local.dtype, memory_format=order, copy=is_copy)]


CASTS = (
    "to float double half bfloat16 int long short char byte bool cfloat cdouble chalf cpu cuda type type_as"
)


@operation("pointwise", *CASTS.split(), views=_views_of_casts)
def _cast(call: Call) -> Any:
    """Give a tensor another type, device or order of memory; of the arguments that say which, type and device are taken."""
    x, *rest = (a.local if isinstance(a, SpatialTensor) else a for a in call.args)
    local = call.func(x, *rest, **call.named)
    if not isinstance(call.args[0], SpatialTensor) or not isinstance(local, Tensor):  # the name of its type
        return local
    order = call.named.get("memory_format", torch.preserve_format)
    if order not in (torch.preserve_format, torch.contiguous_format):
        local = local.contiguous(memory_format=order)
    return wrap(local, call.args[0])


@operation("layout", "contiguous")
def _contiguous(call: Call) -> Any:
    bound = call.bind("input memory_format", memory_format=torch.contiguous_format)
    x, order = bound["input"], bound["memory_format"]
    return (
        x if x.meta.is_contiguous(memory_format=order) else wrap(x.local.contiguous(memory_format=order), x)
    )


@operation("pointwise", "prelu")
def _prelu(call: Call) -> Any:
    x, weight = call.args
    return wrap(functional.prelu(x.local, weight), x)


@operation("pointwise", "rrelu", order="contiguous")
def _rrelu(call: Call) -> Any:
    bound = call.bind("input lower upper training inplace", training=False)
    if bound["training"]:
        raise call.unsupported("its slopes are not drawn alike on all workers")
    return run_pointwise(call)


@operation("pointwise", "dropout", "alpha_dropout", "feature_alpha_dropout", views=its_input)
def _dropout(call: Call) -> Any:
    """Draw the mask of the whole, on every worker the same, and keep the band's part of it."""
    bound = call.bind("input p training inplace", p=0.5, training=True, inplace=False)
    bound["training"] = bound.pop("train", bound["training"])
    x, p = bound["input"], float(bound["p"])
    if not bound["training"] or p == 0:
        return x
    if call.name != "dropout":
        raise call.unsupported("only dropout without alpha is drawn alike on all workers")
    return _times_mask(x, empty_whole(x, like=True), p, bound["inplace"] or call.is_in_place)


@operation("pointwise", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", views=its_input)
def _feature_dropout(call: Call) -> Any:
    bound = call.bind("input p training inplace", p=0.5, training=True, inplace=False)
    bound["training"] = bound.pop("train", bound["training"])
    x, p = bound["input"], float(bound["p"])
    if not bound["training"] or p == 0:
        return x
    shape = _shape(x)
    is_one_image = (call.name, len(shape)) in (("dropout1d", 2), ("dropout3d", 4))
    lead = 1 if is_one_image else 2
    noise = x.local.new_empty((*shape[:lead], *(1 for _ in shape[lead:])))
    return _times_mask(x, noise, p, bound["inplace"] or call.is_in_place)


def _times_mask(x: SpatialTensor, noise: Tensor, p: float, in_place: bool) -> SpatialTensor:
    mask = noise.bernoulli_(1 - p).div_(1 - p) if p < 1 else noise.zero_()
    part = slice_local(mask, x.dims, x.mesh)
    return wrap(x.local.mul_(part) if in_place else x.local * part, x)


@operation("pointwise", "rand_like", "randn_like", "randint_like")
def _random_like(call: Call) -> Any:
    """Draw for the whole, on every worker the same, and keep the band's part."""
    x = call.args[0] if call.args else call.named["input"]
    order = call.named.get("memory_format", torch.preserve_format)
    whole = empty_whole(x, like=True)
    if order != torch.preserve_format:
        whole = whole.contiguous(memory_format=order)
    named = {n: v for n, v in call.named.items() if n not in ("input", "memory_format")}
    drawn = call.func(whole, *call.args[1:], **named)
    return keep_own(drawn, x.dims, x.mesh)


@operation("pointwise", "uniform", "exponential", "cauchy", "log_normal", "geometric", "random")
def _random_in_place(call: Call) -> Any:
    """Draw for the whole, on every worker the same, and keep the band's part."""
    x = call.args[0]
    if not isinstance(x, SpatialTensor) or not call.is_in_place:
        raise call.unsupported("its arguments are spread over workers")
    drawn = call.func(empty_whole(x), *call.args[1:], **call.named)
    return wrap(x.local.copy_(slice_local(drawn, x.dims, x.mesh)), x)


@operation("pointwise", "bernoulli", "normal", order="contiguous")
def _random_by_values(call: Call) -> Any:
    """Draw for the whole, whose values elsewhere do not matter: each element takes as many random numbers.

    The methods in place take numbers for what they draw by, ``torch.normal`` and ``torch.bernoulli`` the values of tensors.
    """
    if call.is_in_place:
        x = call.args[0]
        given = [a for a in (*call.args[1:], *call.named.values()) if isinstance(a, Tensor)]
        if not isinstance(x, SpatialTensor) or given:
            raise call.unsupported(
                "it draws by the values of another tensor: use torch.bernoulli or torch.normal"
            )
        return _random_in_place(call)
    operands = [a for a in (*call.args, *call.named.values()) if isinstance(a, Tensor)]
    x = next(a for a in operands if isinstance(a, SpatialTensor))
    if any(_shape(a) != _shape(x) and a.dim() for a in operands):
        raise call.unsupported("its mean and deviation have different shapes: expand one as the other")
    dims = broadcast_dims(operands, call.mesh)

    def whole(value: Any) -> Any:
        if not isinstance(value, SpatialTensor):
            return value
        values = empty_whole(value, like=True).zero_()
        put_local(local_part(value, dims, call.mesh, call.name).detach(), values, dims, call.mesh)
        return values

    drawn = call.func(*map(whole, call.args), **{n: whole(v) for n, v in call.named.items()})
    return keep_own(drawn, dims, call.mesh)


@operation("pointwise", "new_empty", "new_zeros", "new_ones", "new_full", order="contiguous")
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
