"""Operators as the dispatcher knows them: by name, with the names and kinds of their arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class Parameter(NamedTuple):
    """What an operator takes in one place.

    Attributes:
        name: Of the argument.
        kind: Such as ``Tensor``, ``List[int]``, ``Optional[ScalarType]`` or ``number``.
        default: What it is where it is left out; None also where it may not be.
        by_name: Whether it is given by name only.
        is_written: Whether the operator changes it.
    """

    name: str
    kind: str
    default: Any
    by_name: bool
    is_written: bool


@functools.cache
def parameters_of(operator: Any) -> tuple[Parameter, ...]:
    """Return what an operator takes, in order.

    Why: a mode sees an operator with its arguments as they were given; which of them they are, only its schema says.
    """
    return tuple(
        Parameter(
            one.name,
            str(one.real_type),
            one.default_value if one.has_default_value() else None,
            one.kwarg_only,
            one.alias_info is not None and one.alias_info.is_write,
        )
        for one in operator._schema.arguments
    )


@functools.cache
def schema_name(operator: Any) -> str:
    """Return the name that all overloads of an operator share, such as ``aten::add``."""
    name: str = operator._schema.name
    return name


@functools.cache
def written_by_name(operator: Any) -> tuple[str, ...]:
    """Return the names of what an operator writes its results to, as ``out``."""
    return tuple(one.name for one in parameters_of(operator) if one.by_name and one.is_written)


@functools.cache
def computes_nothing(operator: Any) -> bool:
    """Return whether an operator only gives another view of its tensors, or notes for a profiler.

    Why: `OpOverload.is_view` is in no documentation, and of ``detach`` and ``_unsafe_view`` it says otherwise.
    """
    name: str = operator._schema.name
    views = ("aten::detach", "aten::_unsafe_view", "aten::lift_fresh")
    return bool(operator.is_view) or name in views or name.startswith("profiler::")


@functools.cache
def operator_of(name: str) -> Callable[..., Any]:
    """Return the operator of a name as ``str`` gives it, such as ``aten.add.Tensor``.

    Raises:
        ValueError: If there is none: its library may not be loaded.
    """
    found: Any = torch.ops
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise ValueError(f"PyTorch {torch.__version__} has no operator {name!r} loaded") from error
    if not isinstance(found, torch._ops.OpOverload):
        raise ValueError(f"{name!r} is no operator: it needs an overload, such as aten.add.Tensor")
    return found
