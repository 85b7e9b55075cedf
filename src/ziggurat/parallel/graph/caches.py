"""Caches (``functools.lru_cache``, dicts): what a trace has put into them has no values, and nobody may find it there.

A layer that found an index of its own without values would read memory of somebody else, and say nothing.
"""

from __future__ import annotations

import functools
import gc
import sys
import traceback
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

from ziggurat.system.unasked import attributes_of, is_a

Cache = type(functools.lru_cache(maxsize=1)(len))
KNOWN = {"torch", "numpy", *sys.stdlib_module_names}
"""Packages whose functions keep no tensors of a network."""
MOST_DEPTH = 4  # of lists and tuples in a dict's value


@contextmanager
def caches_as_before(model: nn.Module) -> Iterator[None]:
    """Empty the caches of the methods of all layers first; afterwards every cache of a layer, a class or a module that has grown.

    What else holds a tensor of the trace `forget_hollow` finds: to look for it costs as much as a trace, and nearly always there is nothing.
    """
    layers = {type(module) for module in model.modules()}
    own = list(_caches_of_methods(layers))
    for cache in own:
        cache.cache_clear()
    held = [
        cache for module in model.modules() for value in vars(module).values() for cache in _caches_in(value)
    ]
    known = (*own, *held, *_of_modules.caches({layer.__module__ for layer in layers}))
    before = [(cache, cache.cache_info().misses) for cache in {id(one): one for one in known}.values()]
    try:
        yield
    finally:
        for cache, misses in before:
            if cache.cache_info().misses > misses:
                cache.cache_clear()


def forget_hollow(
    made: list[weakref.ref[Tensor]], error: BaseException | None = None, known: Sequence[Tensor] = ()
) -> list[Tensor]:
    """Take the tensors of a trace that is over out of every dict and cache which holds one still, whosoever it is.

    A dict with such a value is a cache, too: whoever does not find its key computes the value anew.

    Args:
        made: All that the trace has made; who recorded them is gone.
        error: What has ended the trace: its frames forget their variables.
        known: Those that are held with good reason.

    Returns:
        Those that somebody holds nevertheless.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    if not _alive(made, known):
        return []
    gc.collect()  # what holds itself
    is_frozen = gc.get_freeze_count() > 0
    if is_frozen:
        gc.unfreeze()  # else the holders from before are not seen
    _forget_each(_alive(made, known))
    if is_frozen:
        gc.freeze()
    return _alive(made, known)


@contextmanager
def emptied_on_error(recorder: Any) -> Iterator[None]:
    """Take everything but its layers from whoever records, where a block raises.

    A traceback keeps the functions that were being called, also when its frames are cleared, and these what they close over: the
    recorder, which has all tensors of its trace.
    """
    try:
        yield
    except BaseException:
        layers = recorder.layers
        vars(recorder).clear()
        recorder.layers = layers
        raise


def _alive(made: list[weakref.ref[Tensor]], known: Sequence[Tensor]) -> list[Tensor]:
    found = {id(one): one for ref in made if (one := ref()) is not None}
    return [one for key, one in found.items() if all(one is not other for other in known)]


def _forget_each(tensors: list[Tensor]) -> None:
    """Delete tensors, or the lists and tuples that hold them, from the dicts that hold these, and empty the caches that do."""
    values: list[Any] = list(tensors)
    for _ in range(MOST_DEPTH):
        known = set(map(id, values))
        holders = gc.get_referrers(*values)  # one walk through all objects
        found = {}
        for holder in holders:
            if type(holder) is Cache:
                holder.cache_clear()
            if is_a(holder, dict) and (keys := [key for key, one in holder.items() if id(one) in known]):
                found[id(holder)] = holder, keys
        namespaces = _namespaces([holder for holder, _ in found.values()])
        for number, (holder, keys) in found.items():
            for key in keys if number not in namespaces else ():
                del holder[key]
        values = [
            one for one in holders if type(one) in (list, tuple) and one is not values and one is not tensors
        ]
        if not values:
            return


def _namespaces(holders: list[dict[Any, Any]]) -> set[int]:
    """Return the ``id`` of dicts that have the variables of a module, or the attributes of an object or a class: these are no cache."""
    found = {id(holder) for holder in holders if "__builtins__" in holder}
    for one in gc.get_referrers(*holders) if holders else ():  # another walk
        found.add(id(attributes_of(one)))
        if is_a(one, type):
            found.add(id(_of_class(one)))
    return found


def _of_class(owner: type) -> Any:
    """Return the dict behind what a class shows of its own."""
    return gc.get_referents(vars(owner))[0]


class _OfModules:
    """The caches of all modules but PyTorch's and Python's own: of their functions, and of the methods of their classes.

    A module is looked through once, and again when it has more or fewer names.
    """

    def __init__(self) -> None:
        self.known: dict[str, tuple[int, int, list[Any]]] = {}

    def caches(self, changing: set[str]) -> list[Any]:
        """Return them.

        Args:
            changing: Names of modules that are looked through each time.
        """
        found: list[Any] = []
        for name, module in list(sys.modules.items()):
            if not is_a(module, ModuleType) or name.partition(".")[0] in KNOWN:
                continue
            mark, known = (id(module), len(vars(module))), self.known.get(name)
            if known is None or known[:2] != mark or name in changing or name == "__main__":
                known = self.known[name] = (*mark, list(_caches_of_module(module)))
            found += known[2]
        return found


_of_modules = _OfModules()


def _caches_of_module(module: ModuleType) -> Iterator[Any]:
    """Yield the caches of a module's functions, and of the methods of the classes that it defines."""
    for value in list(vars(module).values()):
        if is_a(value, type):
            if value.__module__ == module.__name__:
                yield from _caches_of_methods({value})
        else:
            yield from _caches_in(value)


def _caches_of_methods(classes: set[type]) -> Iterator[Any]:
    """Yield the caches of the classes' own methods."""
    bases = {base for made in classes for base in made.__mro__}
    for own in bases:
        module = own.__module__
        if not isinstance(module, str) or module.startswith("torch."):  # a class may have a slot of this name
            continue
        for value in list(vars(own).values()):
            yield from _caches_in(value.__func__ if is_a(value, staticmethod, classmethod) else value)


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
