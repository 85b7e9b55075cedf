"""Caches (``functools.lru_cache``, dicts): what a trace has put into them has no values, and nobody may find it there.

A layer that found an index of its own without values would read memory of somebody else, and say nothing.
"""

from __future__ import annotations

import functools
import gc
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

Cache = type(functools.lru_cache(maxsize=1)(len))
KNOWN = {"torch", "numpy", *sys.stdlib_module_names}
"""Packages whose functions keep no tensors of a network."""
MOST_DEPTH = 4  # of lists and tuples in a dict's value


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


def forget_hollow(made: list[weakref.ref[Tensor]]) -> list[Tensor]:
    """Take the tensors of a trace that is over out of every dict which holds one still, whosoever it is.

    A dict with such a value is a cache: whoever does not find its key computes the value anew.

    Args:
        made: All that the trace has made; who recorded them is gone.

    Returns:
        Those that somebody holds nevertheless.
    """
    if not _alive(made):
        return []
    gc.collect()  # what holds itself
    is_frozen = gc.get_freeze_count() > 0
    if is_frozen:
        gc.unfreeze()  # else the holders from before are not seen
    _forget_each(_alive(made))
    if is_frozen:
        gc.freeze()
    return _alive(made)


def _alive(made: list[weakref.ref[Tensor]]) -> list[Tensor]:
    return list({id(one): one for ref in made if (one := ref()) is not None}.values())


def _forget_each(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        _forget(tensor, MOST_DEPTH)


def _forget(value: Any, depth: int) -> None:
    """Delete an object, or the lists and tuples that hold it, from the dicts that hold these."""
    for holder in gc.get_referrers(value):
        if type(holder) in (list, tuple) and depth:
            _forget(holder, depth - 1)
        elif isinstance(holder, dict) and not _is_namespace(holder):
            for key in [key for key, one in holder.items() if one is value]:
                del holder[key]


def _is_namespace(holder: dict[Any, Any]) -> bool:
    """Whether a dict has the variables of a module, or the attributes of an object: these are no cache."""
    return "__builtins__" in holder or any(
        getattr(one, "__dict__", None) is holder for one in gc.get_referrers(holder)
    )


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
