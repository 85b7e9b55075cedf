"""Opening what looks like a whole tensor for hooks that walk through arguments and outputs, and closing it again.

fsdp's hooks ask every tensor that a module takes or returns whether it has a gradient, and hang backward hooks on it. Autograd
works on the local part of a tensor that is spread over workers; so the hooks must see that part, and the module must not:

    caller ──> open arguments ──> fsdp's hook ──> close arguments ──> forward ──> open outputs ──> fsdp's hook ──> close outputs
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ziggurat.parallel.spatial import SpatialTensor
from ziggurat.parallel.tensor.split import SplitTensor
from ziggurat.torch_internals.tensors import is_view


def open_around(module: nn.Module) -> None:
    """Add the hook that comes before those which walk through outputs; call it before they are there."""
    module.register_forward_hook(_open_outputs)


def close_around(module: nn.Module) -> None:
    """Add all other hooks; call it when those which walk through containers are there."""
    module.register_forward_pre_hook(_open_arguments, prepend=True, with_kwargs=True)
    module.register_forward_pre_hook(_close_arguments, with_kwargs=True)
    module.register_forward_hook(_close_outputs)


class _Opened(NamedTuple):
    """A tensor that is spread over workers, as fsdp's hooks may see it: autograd works on its local part.

    Attributes:
        local: The part.
        closed: From a part to what looks like the whole; out of sight of what walks through containers.
    """

    local: Tensor
    closed: Callable[[Tensor], Tensor]


def _open(value: Any) -> Any:
    if isinstance(value, SpatialTensor):
        return _Opened(value.local, partial(SpatialTensor, dims=value.dims, mesh=value.mesh))
    if isinstance(value, SplitTensor):
        return _Opened(value.local, partial(SplitTensor, axis=value.axis, cut_dim=value.cut_dim))
    return value


def _open_output(value: Any) -> Any:
    """Open, and copy views: fsdp loses sight of a view that is changed in place afterwards."""
    value = _open(value)
    if isinstance(value, _Opened):
        return _Opened(_unshared(value.local), value.closed)
    return _unshared(value) if isinstance(value, Tensor) else value


def _unshared(tensor: Tensor) -> Tensor:
    return tensor.clone() if is_view(tensor) and tensor.requires_grad else tensor


def _close(value: Any) -> Any:
    if isinstance(value, _Opened):
        return value.closed(value.local)
    return value


def backward_of_nothing(outputs: Any) -> None:
    """Run backward from all outputs of a model with a gradient of 0, so that its units meet those of other workers."""
    found: list[Tensor] = []

    def take(value: Any) -> Any:
        value = value.local if isinstance(value, (SpatialTensor, SplitTensor)) else value
        if isinstance(value, Tensor) and value.requires_grad:
            found.append(value)
        return value

    _each(outputs, take)
    torch.autograd.backward(found, [torch.zeros_like(tensor) for tensor in found])


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a value with every item of its containers changed."""
    changed = change(value)
    if changed is not value or isinstance(value, (Tensor, nn.Module)):
        return changed
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_each(item, change) for item in value))
    if type(value) in (list, tuple):
        return type(value)(_each(item, change) for item in value)
    if isinstance(value, dict):
        pairs = {key: _each(item, change) for key, item in value.items()}
        return pairs if type(value) is dict else type(value)(pairs)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: _each(getattr(value, name), change) for name in names})
    return value


def _open_arguments(module: nn.Module, args: Any, named: Any) -> Any:
    return _each(args, _open), _each(named, _open)


def _close_arguments(module: nn.Module, args: Any, named: Any) -> Any:
    return _each(args, _close), _each(named, _close)


def _open_outputs(module: nn.Module, args: Any, output: Any) -> Any:
    return _each(output, _open_output)


def _close_outputs(module: nn.Module, args: Any, output: Any) -> Any:
    return _each(output, _close)
