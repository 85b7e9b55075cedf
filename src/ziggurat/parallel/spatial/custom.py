"""Custom autograd functions of a network: seen as one call, and computed on bands if they are declared.

    class Swish(torch.autograd.Function): ...       declare("Swish", "pointwise")
    class Norm(torch.autograd.Function): ...        declare("Norm", "channels")     each position for itself, all its channels

What their forward does is not what is differentiated, so that the engine cannot look into them: they are called with this worker's
part, and so is their backward. Positions are on one worker each, and so are their gradients; of parameters each worker has a part.

A reentrant checkpoint is a custom function, too. It becomes one that is not reentrant, which computes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

from torch import Tensor
from torch.utils.checkpoint import CheckpointFunction

from ziggurat.parallel.spatial import strides as orders
from ziggurat.parallel.spatial.dispatch import run_operation, tensors_in
from ziggurat.parallel.spatial.layout import is_cut, plain
from ziggurat.parallel.spatial.memory import default_meta
from ziggurat.parallel.spatial.operations.gathering import of_each
from ziggurat.parallel.spatial.operations.pointwise import align, run_pointwise
from ziggurat.parallel.spatial.table import Call, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor, slice_local
from ziggurat.torch_internals.functions import checkpoint_by_hooks, seeing_apply

_declared: set[str] = set()


def declare(name: str, kind: Literal["pointwise", "channels"], dim: int = 1) -> None:
    """Declare an operation of one's own, or one of PyTorch's that is not in the table.

    Args:
        name: The function's name, or that of the class of a custom autograd function.
        kind: ``pointwise``: each element of the result depends on that element of the arguments alone. ``channels``: each position of
            the result depends on that position of the arguments alone, whatever becomes of its channels. Both hold for the gradient,
            too; that of parameters is a sum over positions.
        dim: Of the channels.

    Raises:
        ValueError: If there is such an operation already.

    Example:
        >>> declare("MySwish", "pointwise")
        >>> declare("MyLayerNorm", "channels")
    """
    run = run_pointwise if kind == "pointwise" else _on_positions(dim)
    operation("pointwise", name, views=_order_of_part)(run)
    _declared.add(name)


def _on_positions(dim: int) -> Callable[[Call], Any]:
    """Return what computes an operation that mixes channels: each worker at its positions."""

    def run(call: Call) -> Any:
        first = tensors_in((*call.args, *call.named.values()))[0]
        channels = dim % len(first.dims)
        if is_cut(first.dims[channels]):
            raise call.unsupported(
                f"its channels, dim {channels}, are cut", "declare it with the dim of its channels"
            )

        def part(value: Any) -> Any:
            return _at_positions(value, first, channels, call) if isinstance(value, Tensor) else value

        def laid_out(local: Tensor) -> SpatialTensor:
            kept = [d for d in range(len(first.dims)) if d != channels]
            if local.dim() != len(first.dims) or any(local.shape[d] != first.local.shape[d] for d in kept):
                raise call.unsupported(
                    f"it makes {tuple(local.shape)} of {tuple(first.local.shape)}, where only channels may change"
                )
            same = local.shape[channels] == first.local.shape[channels]
            own = first.dims[channels] if same else plain(local.shape[channels])
            dims = (*first.dims[:channels], own, *first.dims[channels + 1 :])
            return first if local is first.local else SpatialTensor(local, dims, first.mesh)

        named = {name: part(value) for name, value in call.named.items()}
        return of_each(call.func(*map(part, call.args), **named), laid_out)

    return run


def _at_positions(value: Tensor, first: SpatialTensor, channels: int, call: Call) -> Tensor:
    """Return what belongs to this worker's positions: of a tensor that has some, its part; else all of it, as of a parameter."""
    if value.dim() != len(first.dims):
        return call.weight(value) if isinstance(value, SpatialTensor) else value
    dims = list(first.dims)
    dims[channels] = (
        value.dims[channels] if isinstance(value, SpatialTensor) else plain(value.shape[channels])
    )
    if not isinstance(value, SpatialTensor):
        return slice_local(value, tuple(dims), first.mesh)
    if is_cut(dims[channels]):
        raise call.unsupported(f"its channels, dim {channels}, are cut")
    return align(value, tuple(dims), call.name).local


def _order_of_part(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Say how results lie in memory: as the first argument does, if a worker's parts do; or as the part itself."""
    first = tensors_in((*call.args, *call.named.values()))[0]
    found: list[Tensor | None] = []
    for x in made:
        shape, local = tuple(x.shape), x.raw
        alike = orders.elementwise(
            tuple(local.shape), [(tuple(first.local.shape), first.local.stride())]
        ) if local.shape == first.local.shape else ()  # fmt: skip
        is_alike = bool(alike) and orders.same_strides(local.shape, alike, local.stride())
        found.append(None if is_alike else default_meta(shape, local))
    return found


def custom_functions_seen() -> AbstractContextManager[None]:
    """Return a context in which this thread's custom autograd functions are computed on bands, or refused by name."""
    return seeing_apply(_see)


def _see(cls: Any, args: tuple[Any, ...], named: dict[str, Any], apply: Callable[..., Any]) -> Any:
    if cls is CheckpointFunction:
        return checkpoint_by_hooks(*args)
    first = next(iter(tensors_in((*args, *named.values()))), None)
    if first is None:
        return apply(*args, **named)
    name = cls.__name__
    if name not in _declared:
        raise first.mesh.unsupported(
            name,
            "a custom autograd function computes its gradient on plain tensors",
            f'if it computes each element for itself, forward and backward, call ziggurat.parallel.spatial.declare("{name}", "pointwise"), '
            f'if each position with all its channels, declare("{name}", "channels"); or write it with PyTorch\'s functions',
        )

    def function(*own: Any, **others: Any) -> Any:
        return apply(*own, **others)

    function.__name__ = name
    return run_operation(function, args, named)
