"""Caches of functions (``functools.lru_cache``): what a trace has put into them has no values, and nobody may find it there.

A layer that found an index of its own without values would read memory of somebody else, and say nothing.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

Cache = type(functools.lru_cache(maxsize=1)(len))
KNOWN = {"torch", "numpy", *sys.stdlib_module_names}
"""Packages whose functions keep no tensors of a network."""


@contextmanager
def caches_as_before(model: nn.Module) -> Iterator[None]:
    """Empty the caches of the methods of all layers first; afterwards every cache that has grown, whosoever it is."""
    own = list(_caches_of_methods({type(module) for module in model.modules()}))
    for cache in own:
        cache.cache_clear()
    before = [
        (cache, cache.cache_info().misses)
        for cache in {id(one): one for one in (*own, *_all_caches())}.values()
    ]
    try:
        yield
    finally:
        for cache, misses in before:
            if cache.cache_info().misses > misses:
                cache.cache_clear()


def _all_caches() -> Iterator[Any]:
    """Yield the caches of all modules but PyTorch's and Python's own, and all that are tracked as garbage.

    Those that exist since a `gc.freeze` are not tracked.
    """
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in KNOWN:
            for value in list(vars(module).values()) if isinstance(module, ModuleType) else ():
                yield from _caches_in(value)
    yield from (one for one in gc.get_objects() if type(one) is Cache)


def _caches_of_methods(classes: set[type]) -> Iterator[Any]:
    """Yield the caches of the classes' own methods."""
    for own in {
        base for made in classes for base in made.__mro__ if not base.__module__.startswith("torch.")
    }:
        for value in vars(own).values():
            yield from _caches_in(getattr(value, "__func__", value))  # of a static or class method


def _caches_in(value: Any) -> Iterator[Any]:
    """Yield a function's cache, also where another decorator holds it."""
    if type(value) is Cache:
        yield value
    elif type(value) is FunctionType and value.__closure__:
        yield from (one for one in closed_over(value) if type(one) is Cache)


def closed_over(function: FunctionType) -> list[Any]:
    """Return what a function has of its surroundings; a cell that is empty as yet holds nothing."""
    held = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # it raises where it is empty, and cannot be asked
            held.append(cell.cell_contents)
    return held
