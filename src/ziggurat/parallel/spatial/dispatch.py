"""From what a model calls on a spatial tensor to the table's entry for it.

    dispatch  ->  operations  ->  table  ->  tensor  ->  mesh

This file lies above all of them, and gives `SpatialTensor` what it calls: a tensor must know how its operations are computed, and
these must know the tensor. Importing it fills the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ziggurat.parallel.spatial import operations
from ziggurat.parallel.spatial.mesh import SpatialMesh
from ziggurat.parallel.spatial.table import TABLE, Call, name_of
from ziggurat.parallel.spatial.tensor import SpatialTensor
from ziggurat.torch_internals.tensors import as_plain_tensors

__all__ = ["operations", "run_operation", "tensors_in"]


def tensors_in(values: Iterable[Any]) -> Iterator[SpatialTensor]:
    """Yield the spatial tensors among values, and in lists among them."""
    for value in values:
        if isinstance(value, SpatialTensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)


def run_operation(func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Compute an operation of which at least one argument is a spatial tensor.

    Raises:
        UnsupportedOperation: If it has no declared kind, or cannot be computed on bands.
    """
    tensors = list(tensors_in((*args, *named.values())))
    if not tensors:  # a class method such as Tensor.__torch_function__ asks nothing of us
        with as_plain_tensors():
            return func(*args, **named)
    mesh, name = tensors[0].mesh, name_of(func)
    _refuse_foreign_autograd(tensors, mesh)
    entry = TABLE.get(name)
    if entry is None:
        raise mesh.unsupported(name, "it has no declared kind")
    return entry.run(Call(func, name, args, named, mesh))


def _refuse_foreign_autograd(tensors: list[SpatialTensor], mesh: SpatialMesh) -> None:
    """Raise if a tensor came out of an autograd function written for plain tensors: its gradient would be lost."""
    with as_plain_tensors():
        for tensor in tensors:
            if tensor.grad_fn is not None:
                raise mesh.unsupported(
                    tensor.grad_fn.name(), "a custom autograd function computes its gradient on plain tensors"
                )


SpatialTensor.dispatch = staticmethod(run_operation)
