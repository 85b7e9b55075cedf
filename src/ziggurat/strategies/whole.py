"""Models of which a worker has not everything: tensors without memory in the place of others', and back to the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ziggurat.torch_internals.modules import own_states, replace_state
from ziggurat.torch_internals.tensors import is_alone

Model = TypeVar("Model", bound=nn.Module)


def named_states(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model by name; one that has several names by its first."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def local(tensor: Tensor) -> Tensor:
    """Return this worker's rows of a sharded tensor, in the same memory; any other tensor itself."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor


def drop_states(model: nn.Module, kept: set[str]) -> None:
    """Replace the parameters and buffers that are not kept by tensors without memory; ties stay."""
    names = {id(tensor): name for name, tensor in named_states(model).items()}
    empty: dict[int, tuple[Tensor, Tensor]] = {}  # with what it stands for, whose number nobody else gets

    def replacement(tensor: Tensor) -> Tensor:
        if names[id(tensor)] in kept:
            return tensor
        if id(tensor) not in empty:
            hollow = torch.empty_like(tensor, device="meta")
            is_parameter = isinstance(tensor, nn.Parameter)
            empty[id(tensor)] = nn.Parameter(hollow, tensor.requires_grad) if is_parameter else hollow, tensor
        return empty[id(tensor)][0]

    _replace(model, replacement)


def fill_states(model: Model, tensors: Mapping[str, Tensor]) -> Model:
    """Replace the parameters and buffers without memory by tensors of their names; ties stay.

    Returns:
        The model itself.
    """
    names = {id(tensor): name for name, tensor in named_states(model).items()}
    filled: dict[int, Tensor] = {}

    def replacement(tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor
        if id(tensor) not in filled:
            value = tensors[names[id(tensor)]]
            is_parameter = isinstance(tensor, nn.Parameter)
            filled[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if is_parameter else value
        return filled[id(tensor)]

    _replace(model, replacement)
    return model


def give_states(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the parameters and buffers of a model the memory of tensors of their names: nothing is copied.

    Where something else has a view of their own memory, that takes the values instead. Those that are not named stay as they are.

    Raises:
        ValueError: If one is of another shape or type.
    """
    for name, tensor in named_states(model).items():
        if name not in tensors:
            continue
        given = tensors[name].detach()
        if (given.shape, given.dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(f"{name} is {tuple(tensor.shape)} of {tensor.dtype}, not {tuple(given.shape)}")
        if is_alone(tensor):
            tensor.data = given
        else:
            tensor.data.copy_(given)


def _replace(model: nn.Module, replacement: Callable[[Tensor], Tensor]) -> None:
    for module in model.modules():
        for name, tensor in own_states(module):
            replace_state(module, name, replacement(tensor))
