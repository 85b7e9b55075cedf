"""Caches of a network's own methods (``functools.lru_cache``): what a trace has put into them has no values, and is no other trace's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def empty_caches(model: nn.Module) -> Iterator[None]:
    """Empty the caches of methods of all layers, before and after."""
    found = list(_caches_of({type(module) for module in model.modules()}))
    try:
        for cache in found:
            cache.cache_clear()
        yield
    finally:
        for cache in found:
            cache.cache_clear()


def _caches_of(classes: set[type]) -> Iterator[Any]:
    """Yield what can be cleared of the classes' own methods, also where another decorator holds it."""
    for own in {
        base for made in classes for base in made.__mro__ if not base.__module__.startswith("torch.")
    }:
        for value in vars(own).values():
            function = getattr(value, "__func__", value)  # of a static or class method
            held = (
                cell.cell_contents
                for cell in getattr(function, "__closure__", None) or ()
                if _is_filled(cell)
            )
            yield from (one for one in (function, *held) if hasattr(one, "cache_clear"))


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty one raises
    except ValueError:
        return False
    return True
