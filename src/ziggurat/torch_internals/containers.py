"""Walking through nested lists, tuples and dicts, also those that a library has registered.

Why: what a network takes and returns may be any of them (the outputs of `transformers`' models are registered with PyTorch's
tree functions); walking by hand would miss these. The functions have no public name in PyTorch 2.14. Plain tuples, lists and dicts,
which nearly all are, are walked by hand: in a fifth of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

__all__ = ["TreeSpec", "tree_flatten", "tree_leaves", "tree_map", "tree_map_only", "tree_unflatten"]

LEAVES = frozenset((Tensor, nn.Parameter, int, float, bool, str, type(None), torch.dtype, torch.device))
"""Kinds that hold nothing, and that nobody registers."""


def tree_leaves(structure: Any) -> list[Any]:
    """Return what is in containers of any depth, in order."""
    leaves: list[Any] = []
    _walk(structure, leaves)
    return leaves


def _walk(structure: Any, leaves: list[Any]) -> None:
    kind = type(structure)
    if kind in LEAVES:
        leaves.append(structure)
    elif kind is tuple or kind is list:
        for one in structure:
            _walk(one, leaves)
    elif kind is dict:
        for one in structure.values():
            _walk(one, leaves)
    else:
        leaves += _pytree.tree_leaves(structure)


def tree_map(function: Callable[[Any], Any], structure: Any) -> Any:
    """Return containers of any depth with what a function makes of everything in them, in order."""
    kind = type(structure)
    if kind in LEAVES:
        return function(structure)
    if kind is tuple:
        return tuple([tree_map(function, one) for one in structure])
    if kind is list:
        return [tree_map(function, one) for one in structure]
    if kind is dict:
        return {key: tree_map(function, one) for key, one in structure.items()}
    return _pytree.tree_map(function, structure)
