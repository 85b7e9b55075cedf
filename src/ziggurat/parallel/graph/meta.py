"""A network without memory: what is asked of its form alone, or is filled later."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

META = torch.device("meta")
Model = TypeVar("Model", bound=nn.Module)


def meta_copy(model: Model, mark: Callable[[Tensor, str], Tensor] = lambda tensor, name: tensor) -> Model:
    """Return a copy of a network whose parameters and buffers are on the meta device; ties stay.

    Args:
        model: It is not changed.
        mark: From a tensor without memory and its name to what the copy has.

    Raises:
        RuntimeError: If the network cannot be copied.
        TypeError: Likewise.
    """
    hollow: dict[int, Any] = {}  # deepcopy takes an object that is in its memo as copied
    for name, parameter in model.named_parameters():
        empty = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
        hollow[id(parameter)] = mark(empty, name)
    for name, buffer in model.named_buffers():
        hollow[id(buffer)] = mark(torch.empty_like(buffer, device="meta"), name)
    return copy.deepcopy(model, hollow)


def as_on_meta(leaf: Any) -> Any:
    """Return an argument as it is where nothing has memory."""
    if isinstance(leaf, torch.device):
        return META
    if isinstance(leaf, str) and leaf.partition(":")[0] in ("cpu", "cuda"):
        return "meta"
    if isinstance(leaf, Tensor) and leaf.device != META:
        return leaf.to(META)
    return leaf
