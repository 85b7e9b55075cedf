"""Products of matrices: sums over pairs of elements, as one rule.

Each dim of each argument has a letter. An axis may cut one letter: all arguments that have it are cut alike, and where it
is summed over, the workers' sums are added. An argument that the same axis cuts at another letter is gathered there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.parallel.spatial.layout import Dim, plain, size_of
from ziggurat.parallel.spatial.mesh import SpatialMesh
from ziggurat.parallel.spatial.operations.gathering import spread
from ziggurat.parallel.spatial.operations.pointwise import align
from ziggurat.parallel.spatial.table import Call, operation, wrap
from ziggurat.parallel.spatial.tensor import SpatialTensor, add_up, gather, slice_local


def contract(
    operands: Sequence[Tensor],
    letters: Sequence[Sequence[str]],
    result: Sequence[str],
    compute: Callable[..., Tensor],
    mesh: SpatialMesh,
    operation: str,
) -> SpatialTensor:
    """Compute a sum of products.

    Args:
        operands: Spatial, or plain and whole on every worker.
        letters: Of the dims of each operand.
        result: Letters of the result; those that it has not are summed over.
        compute: From the local operands to the local result.
        mesh: The workers.
        operation: For the report of what is gathered.

    Communication:
        A sum over workers where a cut dim is summed over; rows where operands are cut differently.
    """
    parts = list(operands)
    chosen: dict[str, Dim] = {}
    for number in range(len(mesh.axes)):
        holders = [
            (letter, operand.dims[d])
            for operand, names in zip(parts, letters, strict=True)
            if isinstance(operand, SpatialTensor)
            for d, letter in enumerate(names)
            if any(f.is_cut and f.axis == number for f in operand.dims[d])
        ]
        if not holders:
            continue
        letter, dim = next(((name, dim) for name, dim in holders if name in result), holders[0])
        chosen.setdefault(letter, dim)
        for i, (operand, names) in enumerate(zip(parts, letters, strict=True)):
            if isinstance(operand, SpatialTensor):
                wrong = [
                    d for d, name in enumerate(names)
                    if name not in chosen and any(f.is_cut and f.axis == number for f in operand.dims[d])
                ]  # fmt: skip
                parts[i] = gather(operand, operation, only=wrong)
    locals_: list[Tensor] = []
    sizes: dict[str, Dim] = {}
    for operand, names in zip(parts, letters, strict=True):
        if isinstance(operand, SpatialTensor):
            wanted = tuple(chosen.get(name, operand.dims[d]) for d, name in enumerate(names))
            aligned = align(operand, wanted, operation)
            locals_.append(aligned.local)
            layout = aligned.dims
        else:
            layout = tuple(chosen.get(n, plain(s)) for n, s in zip(names, operand.shape, strict=True))
            locals_.append(slice_local(operand, layout, mesh))
            layout = tuple(plain(s) if s == 1 else dim for s, dim in zip(operand.shape, layout, strict=True))
        for name, dim in zip(names, layout, strict=True):
            if name not in sizes or size_of(sizes[name]) == 1:
                sizes[name] = dim
    local = compute(*locals_)
    summed = [f.axis for n, dim in chosen.items() if n not in result for f in dim if f.is_cut]
    local = add_up(local, mesh, [axis for axis in summed if axis is not None])
    return SpatialTensor(local, tuple(sizes[name] for name in result), mesh)


@operation("moments", "linear")
def _linear(call: Call) -> Any:
    bound = call.bind("input weight bias", bias=None)
    x, weight, bias = (
        spread(bound["input"], call.mesh),
        call.weight(bound["weight"]),
        call.weight(bound["bias"]),
    )
    x = kept_apart(x)
    if not any(f.is_cut for f in x.dims[-1]):
        local = functional.linear(x.local, weight, bias)
        return SpatialTensor(local, (*x.dims[:-1], *map(plain, weight.shape[:-1])), x.mesh)
    head, features = [f"b{d}" for d in range(len(x.dims) - 1)], ["out"][: weight.dim() - 1]
    letters = [[*head, "in"], [*features, "in"]]
    out = contract([x, weight], letters, [*head, *features], functional.linear, call.mesh, call.name)
    return out if bias is None else out + bias


@operation("moments", "matmul", "rmatmul", "bmm", "mm", "mv", "dot")
def _matmul(call: Call) -> Any:
    one, other = call.args[:2] if len(call.args) > 1 else (call.args[0], *call.named.values())
    if call.name == "rmatmul":
        one, other = other, one
    if not isinstance(one, Tensor) or not isinstance(
        other, Tensor
    ):  # PyTorch's own answer: an error, or that it asks the other
        return call.func(*(x.local if isinstance(x, SpatialTensor) else x for x in call.args), **call.named)
    first, second = one.dim(), other.dim()
    if first < 1 or second < 1:
        raise RuntimeError(f"both arguments of {call.name} need a dim at least: got {first} and {second}")
    heads = max(first, second, 2) - 2
    left = [f"b{i}" for i in range(heads - max(first - 2, 0), heads)] + (["m"] if first > 1 else []) + ["k"]
    right = (
        [f"b{i}" for i in range(heads - max(second - 2, 0), heads)] + ["k"] + (["n"] if second > 1 else [])
    )
    result = [f"b{i}" for i in range(heads)] + (["m"] if first > 1 else []) + (["n"] if second > 1 else [])
    return contract(
        [kept_apart(one), kept_apart(other)], [left, right], result, torch.matmul, call.mesh, call.name
    )


def kept_apart(x: Any) -> Any:
    """Return a copy of a part of what PyTorch copies before it is multiplied: a view of more than two dims whose elements lie apart on one worker.

    The copy is kept for backward, so that the view may be changed in place afterwards.
    """
    if not isinstance(x, SpatialTensor) or x.account.view is None or x.dim() < 3:
        return x
    is_copied = not x.meta.is_contiguous() and x.local.is_contiguous() and torch.is_grad_enabled()
    return wrap(x.local.clone(), x) if is_copied else x
