"""From what a model calls on a spatial tensor to the table's entry for it, and from there to the account of the result.

    dispatch  ->  operations  ->  table  ->  tensor  ->  memory, mesh

This file lies above all of them, and gives `SpatialTensor` what it calls: a tensor must know how its operations are computed, and
these must know the tensor. Importing it fills the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.spatial import operations
from ziggurat.parallel.spatial import strides as orders
from ziggurat.parallel.spatial.layout import AxisCutsTwice, shape_of
from ziggurat.parallel.spatial.memory import (
    MAYBE_VIEWS,
    View,
    WayBack,
    make_meta,
    note_change,
    overlap,
    put,
    refuse_elements_of_several,
    renew,
    share_memory,
)
from ziggurat.parallel.spatial.mesh import SpatialMesh
from ziggurat.parallel.spatial.operations.gathering import run_whole
from ziggurat.parallel.spatial.table import TABLE, Call, Operation, name_of, place_of
from ziggurat.parallel.spatial.tensor import SpatialTensor
from ziggurat.torch_internals.tensors import as_plain_tensors, is_view, version_of

__all__ = ["band_of", "operations", "run_operation", "tensors_in"]

IN_SHAPE = frozenset(
    [
        "reshape",
        "view",
        "view_as",
        "reshape_as",
        "flatten",
        "unflatten",
        "contiguous",
        "to",
        "ravel",
        "squeeze",
        "unsqueeze",
    ]
)
"""Views that reshaping undoes."""

FIRST = ("input", "self", "tensors", "tensor", "matrices", "condition", "obj")
"""Names of first parameters: where one is given by its name, operations find it in its place all the same."""

WITH_NUMBERS = frozenset([
    "add", "sub", "subtract", "rsub", "mul", "multiply", "div", "divide", "true_divide", "floor_divide",
    "remainder", "fmod", "eq", "ne", "lt", "le", "gt", "ge", "bitwise_and", "bitwise_or", "bitwise_xor",
    "xlogy",
])  # fmt: skip
"""Operations of two tensors, of which one may be a number."""


def tensors_in(values: Iterable[Any]) -> list[SpatialTensor]:
    """Return the spatial tensors among values, and in lists among them."""
    found: list[SpatialTensor] = []
    for value in values:
        if isinstance(value, SpatialTensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(value)
    return found


def run_operation(func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Compute an operation of which at least one argument is a spatial tensor.

    Raises:
        UnsupportedOperation: If it has no declared kind, or cannot be computed on bands.
    """
    tensors = tensors_in((*args, *named.values()))
    if not tensors:  # a class method such as Tensor.__torch_function__ asks nothing of us
        with as_plain_tensors():
            return func(*args, **named)
    mesh, name = tensors[0].mesh, name_of(func)
    _refuse_foreign_autograd(tensors, mesh)
    entry = TABLE.get(name)
    if entry is None:
        raise mesh.unsupported(name, "it has no declared kind")
    if not args and (first := next((one for one in FIRST if one in named), None)) is not None:
        named = dict(named)
        args = (named.pop(first),)
    call = Call(func, name, args, named, mesh)
    observer, compute = mesh.observer, run_whole if _is_of_a_number(call, entry) else entry.run

    def run() -> Any:
        return compute(call) if observer is None else observer.operation(entry.kind, lambda: compute(call))

    if entry.kind == "question":
        return run()
    for tensor in tensors:
        renew(tensor)
    if call.is_in_place and isinstance(args[0], SpatialTensor):
        refuse_elements_of_several(args[0])
    if call.is_in_place and len(tensors) > 1:
        _refuse_overlap(call, tensors)
    before = [(tensor, tensor.account.memory.changes, _version(tensor)) for tensor in tensors]
    try:
        result = run()
    except AxisCutsTwice:
        reason = "positions along one axis of the image meet themselves: two dims would be cut over the same workers"
        raise call.unsupported(reason) from None
    changed = [
        x
        for x, changes, version in before
        if changes == x.account.memory.changes and (version != _version(x) or call.changes_untold(x))
    ]
    for tensor in changed:
        if not call.is_in_place:  # an argument says so: ``inplace=True``
            refuse_elements_of_several(tensor)
        note_change(tensor)
    if call.is_in_place:
        if isinstance(args[0], SpatialTensor) and result is not None and result is not args[0]:
            raise call.unsupported("it gives a tensor another shape in place")
        return result
    return _with_account(call, entry, tensors, changed, result)


def _is_of_a_number(call: Call, entry: Operation) -> bool:
    """Whether a tensor without dims, of which nothing is cut, is to be computed along dims: PyTorch takes 0 and -1 for one of it."""
    if call.is_in_place or entry.kind not in ("window", "moments", "layout", "gather"):
        return False
    first = call.args[0] if call.args else None
    return isinstance(first, SpatialTensor) and not first.dims


def _refuse_overlap(call: Call, tensors: list[SpatialTensor]) -> None:
    """Raise if a call changes elements that it reads for others: PyTorch's result depends on the order of both."""
    x = call.args[0]
    if not isinstance(x, SpatialTensor):
        return
    others = [one for one in tensors if one is not x and share_memory(one.meta, x.meta)]
    if not others:
        return
    written = x.meta
    if call.name == "setitem":
        index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
        if not any(isinstance(item, (Tensor, list)) for item in index):
            written = x.meta[index]
    if any(overlap(written, one.meta) for one in others):
        raise call.unsupported(
            "it reads what it changes elsewhere, so that its result depends on the order",
            "read from a clone()",
        )


def _version(x: SpatialTensor) -> int:
    return 0 if x.local.is_inference() else version_of(x.local)


def _with_account(
    call: Call, entry: Operation, tensors: list[SpatialTensor], changed: list[SpatialTensor], result: Any
) -> Any:
    """Return what an operation has returned, each tensor of it with the place in memory that it has on one worker."""
    made = tensors_in([result])
    if not made or any(result is x for x in changed):
        return result
    metas = entry.views(call, made) if entry.views is not None else [None] * len(made)
    kept = {}
    for place, (x, meta) in enumerate(zip(made, metas, strict=True)):
        base = None if meta is None else next((t for t in tensors if share_memory(t.meta, meta)), None)
        if meta is not None and base is not None:
            if x is base and meta is not base.meta:  # nothing to do, and yet another tensor: with other hooks
                kept[id(x)] = x = SpatialTensor(x.local.view_as(x.local), x.dims, x.mesh)
            if x is not base:
                _take_for_view(call, x, meta, base, place)
            continue
        if any(share_memory(t.local, x.local) for t in tensors) or _is_hidden_view(call, x.local):
            kept[id(x)] = x = SpatialTensor(x.local.clone(), x.dims, x.mesh)
        x.made_by = call.name
        put(x, meta if meta is not None else _fresh(call, entry, x))
    if not kept:
        return result
    if isinstance(result, SpatialTensor):
        return kept[id(result)]
    return type(result)([kept.get(id(x), x) for x in result])


def _is_hidden_view(call: Call, local: Tensor) -> bool:
    """Whether a worker's part of what PyTorch makes anew is a view of what else was computed: changed in place it forgets its hooks."""
    return local.grad_fn is not None and is_view(local) and call.name not in MAYBE_VIEWS


def _take_for_view(call: Call, x: SpatialTensor, meta: Tensor, base: SpatialTensor, place: int) -> None:
    """Let a tensor lie in the memory of another."""
    view = x.account.view
    if (
        view is not None and view.base is base and view.way_back == "index"
    ):  # a slice, which has been noted as one
        put(x, meta, view)
        return

    def again() -> SpatialTensor:
        return tensors_in([run_operation(call.func, call.args, call.named)])[place]

    way_back: WayBack = "index" if call.name == "getitem" else "shape" if call.name in IN_SHAPE else "none"
    index = call.args[1] if way_back == "index" else None
    is_copy = not share_memory(x.local, base.local)
    put(x, meta, View(base, again, is_copy, way_back, index, torch.is_grad_enabled()))


def _fresh(call: Call, entry: Operation, x: SpatialTensor) -> Tensor:
    """Return where a new tensor lies."""
    shape = shape_of(x.dims)
    asked_for = call.named.get("memory_format")
    if asked_for not in (None, torch.preserve_format):
        return make_meta(shape, orders.in_format(shape, asked_for), x.local.dtype)
    given = (*call.args, *call.named.values())
    operands = [a for a in given if isinstance(a, Tensor)]
    if entry.order == "elementwise":
        places = [place_of(o) for o in (operands[::-1] if call.name == "rsub" else operands)]
        if _is_of_two_shapes(call, given):
            places.append(((), ()))
        return make_meta(shape, orders.elementwise(shape, places), x.local.dtype)
    if entry.order == "first" and "1d" in call.name:  # PyTorch computes these as maps of one row
        return make_meta(shape, orders.as_map_of_one_row(shape, place_of(operands[0])), x.local.dtype)
    deciding = {"first": operands[:1], "channels": operands[:2]}.get(entry.order, [])
    if entry.order == "channels" and (len(shape), x.dtype, x.device.type) == (5, torch.float64, "cpu"):
        deciding = []  # the kernel of volumes that is left for float64
    is_last = any(orders.suggests_channels_last(*place_of(operand)) for operand in deciding)
    found = orders.channels_last(shape) if is_last else orders.contiguous(shape)
    return make_meta(shape, found, x.local.dtype)


def _is_of_two_shapes(call: Call, given: Iterable[Any]) -> bool:
    """Whether PyTorch computes an operation as one of tensors of several shapes, though one tensor is all that it is given: a number is another."""
    if call.name in WITH_NUMBERS:
        return any(isinstance(one, (int, float, complex)) for one in given)
    return call.name == "normalize" or (call.name in ("abs", "absolute") and call.args[0].is_complex())


def band_of(tensor: Tensor) -> Tensor:
    """Return what this worker has of a tensor: of a spatial one its band, of another all.

    Raises:
        UnsupportedOperation: If the band has not the gradient of the tensor.
    """
    if not isinstance(tensor, SpatialTensor):
        return tensor
    _refuse_foreign_autograd([tensor], tensor.mesh)
    return tensor.local


def _refuse_foreign_autograd(tensors: list[SpatialTensor], mesh: SpatialMesh) -> None:
    """Raise if a tensor came out of an autograd function written for plain tensors: its gradient would be lost."""
    with as_plain_tensors():
        for tensor in tensors:
            if tensor.grad_fn is not None:
                raise mesh.unsupported(
                    tensor.grad_fn.name(),
                    "a custom autograd function computes its gradient on plain tensors, called by a name that was given to its `apply` before",
                    "call `apply` of its class where it is used, or run the model without sp",
                )


SpatialTensor.dispatch = staticmethod(run_operation)
