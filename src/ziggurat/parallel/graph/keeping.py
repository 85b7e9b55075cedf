"""Whether a network does the same each time: what two traces have seen is compared, and what its modules hold after each.

A network may count its calls, keep a map for the next one, or take the next of a list of factors. A trace has the first call
once and for all. What it may keep are tables that depend on shapes alone: made once, or made each time, they are the same.

    forward, traced        what was called, and what is kept           the same
    forward, traced again  what was called, and what is kept           or the network is refused
"""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.parallel.graph.caches import closed_over
from ziggurat.parallel.graph.draws import DRAWING
from ziggurat.system.unasked import attributes_of, is_a
from ziggurat.torch_internals.containers import tree_leaves
from ziggurat.torch_internals.tensors import version_of

PLAIN = (
    bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.memory_format, slice, type(...), range,
)  # fmt: skip
MOST_ITEMS = 20_000  # of all modules together; more is no state that a network changes
MOST_DEPTH = 6
OF_MODULES = frozenset(vars(nn.Module()))  # attributes that every module has


class Origins:
    """The tensors that a trace has made, and what they are made of.

    Args:
        name_of: From a tensor to its name as a parameter or buffer; empty for any other.
        before: Of the trace before, of the same modules.

    Attributes:
        seen: What was called with what, but for what depends on shapes alone.
    """

    def __init__(self, name_of: Callable[[Tensor], str], before: Origins | None = None) -> None:
        self.name_of, self.before = name_of, before
        self.made: dict[
            int, tuple[Tensor, int]
        ] = {}  # kept, or an id might come again; with a number, 0 of a constant
        self.count = 0
        self.inner: set[int] = set()  # of those, what layers have made that are one call
        self.heirs: set[int] = set()  # constants that are made of those of the trace before
        self.seen: list[tuple[Any, ...]] = []

    def add(self, tensor: Tensor, is_constant: bool = False, inner: bool = False) -> None:
        """Take note of a tensor."""
        self.count += not is_constant
        self.made[id(tensor)] = tensor, 0 if is_constant else self.count
        if inner:
            self.inner.add(id(tensor))

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on shapes alone."""
        if id(tensor) in self.made:
            return self.made[id(tensor)][1] == 0
        if self.is_stale(tensor):
            assert self.before is not None
            return self.before.is_constant(tensor)
        return not tensor.is_meta and not self.name_of(tensor)

    def is_stale(self, tensor: Tensor) -> bool:
        """Whether a tensor is of the trace before."""
        if self.before is None or id(tensor) in self.made or id(tensor) not in self.before.made:
            return False
        return not self.name_of(tensor)

    def give(self, tensor: Tensor) -> None:
        """Take note that a layer which is one call returns a tensor."""
        if id(tensor) not in self.made:
            self.add(tensor)
        self.inner.discard(id(tensor))

    def differs_at(self, other: Origins) -> tuple[str, str] | None:
        """Return the layer and the function of the first call that another trace has not seen so; None if there is none."""
        for one, same in itertools.zip_longest(self.seen, other.seen):
            if one != same:
                layer, name, *_ = one or same
                return layer, name
        return None

    def is_kept(self, tensor: Tensor) -> bool:
        """Whether a tensor is of this trace, depends on more than shapes, and was made by no layer that is one call."""
        return id(tensor) in self.made and id(tensor) not in self.inner and not self.is_constant(tensor)

    def call(
        self,
        layer: str,
        func: Callable[..., Any],
        values: Any,
        given: Sequence[Tensor],
        made: Sequence[Tensor],
        inner: bool = False,
    ) -> None:
        """Take note of a call.

        Args:
            layer: Where.
            func: What is called.
            values: With what.
            given: The tensors among these.
            made: The tensors that it has made or changed.
            inner: Whether it is inside of a layer that is one call.
        """
        name = name_of_function(func)
        is_constant = name not in DRAWING and all(self.is_constant(tensor) for tensor in given)
        if made and not is_constant:
            self.seen.append((layer, name, *(self._word(leaf) for leaf in tree_leaves(values))))
        stale = any(self.is_stale(tensor) or id(tensor) in self.heirs for tensor in given)
        for tensor in made:
            if all(tensor is not one for one in given):
                self.add(tensor, is_constant, inner)
                self.heirs |= {id(tensor)} if stale else set()
            elif not is_constant:
                self.add(tensor, False, inner)

    def _word(self, leaf: Any) -> Any:
        if is_a(leaf, Tensor):
            if name := self.name_of(leaf):
                return name
            number = 0 if self.is_constant(leaf) else self.made.get(id(leaf), (leaf, -1))[1]
            return number, tuple(leaf.shape), leaf.dtype
        return repr(leaf) if is_a(leaf, *PLAIN, tuple, list) else name_of_function(leaf)


def name_of_function(func: Any) -> str:
    """Return a name of a function or another object, the same in each trace."""
    try:
        name = getattr(func, "__qualname__", None) or getattr(func, "__name__", None)
    except Exception:  # noqa: BLE001 - another's object may raise anything whatever it is asked
        name = None
    return str(name or type(func).__qualname__)


def is_plain_function(value: Any) -> bool:
    """Whether a function has nothing of its surroundings but numbers, words, and functions that have nothing else."""
    if is_a(value, functools.partial):
        return all(map(_is_plain, (value.func, *value.args, *value.keywords.values())))
    if is_a(value, types.FunctionType):
        cells = closed_over(value)
        named = (value.__kwdefaults__ or {}).values()
        return all(map(_is_plain, (*cells, *(value.__defaults__ or ()), *named)))
    return is_a(value, types.BuiltinFunctionType) and is_a(value.__self__, type(None), type, types.ModuleType)


def _is_plain(value: Any) -> bool:
    return is_a(value, *PLAIN, types.ModuleType) or is_plain_function(value)


Snapshot = dict[tuple[str, str], Any]


def states_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers that modules have now, under all their names."""
    named = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    return named


def kept_by(model: nn.Module) -> Snapshot:
    """Return what the modules of a network hold beside parameters, buffers and layers, so that it can be compared."""
    words = _Words()
    return {
        (name, key): words.of(value, 0)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key not in OF_MODULES
    }


def tensors_kept_by(model: nn.Module) -> list[tuple[str, str, Tensor]]:
    """Return the tensors that modules hold as attributes, or in lists among these, each with module and attribute."""
    return [
        (name, key, leaf)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key not in OF_MODULES
        for leaf in (
            [value]
            if is_a(value, Tensor)
            else tree_leaves(value)
            if type(value) in (list, tuple, dict)
            else ()
        )
        if is_a(leaf, Tensor)
    ]


class _Words:
    """Says in words that can be compared what an object holds; of tensors only their shape and type."""

    def __init__(self) -> None:
        self.items = 0
        self.open: set[int] = set()  # what holds itself

    def of(self, value: Any, depth: int) -> Any:
        self.items += 1
        if is_a(value, *PLAIN):
            return repr(value)
        if is_a(value, Tensor):
            return "tensor", tuple(value.shape), str(value.dtype), 0 if value.is_meta else version_of(value)
        kind = type(value).__qualname__
        if (
            is_a(value, nn.Module, type, types.ModuleType)
            or depth >= MOST_DEPTH
            or self.items > MOST_ITEMS
            or id(value) in self.open
        ):
            return kind
        self.open.add(id(value))
        try:
            return kind, self._inside(value, depth + 1)
        except Exception:  # noqa: BLE001 - another's object may raise anything whatever it is asked; its attributes need no asking
            held = attributes_of(value)
            return kind, "" if held is None else self.of(held, depth + 1)
        finally:
            self.open.discard(id(value))

    def _inside(self, value: Any, depth: int) -> Any:
        if is_a(value, Mapping):
            return tuple((self.of(key, depth), self.of(one, depth)) for key, one in list(value.items()))
        if is_a(value, set, frozenset):
            return tuple(sorted(repr(self.of(one, depth)) for one in value))
        if is_a(value, Sequence):
            return tuple(self.of(one, depth) for one in value)
        if is_a(value, types.FunctionType):
            return value.__qualname__, tuple(self.of(held, depth) for held in closed_over(value))
        if is_a(value, functools.partial):
            return tuple(self.of(one, depth) for one in (value.func, value.args, value.keywords))
        if is_a(value, types.MethodType):
            return value.__func__.__qualname__
        held = attributes_of(value)
        if held is not None:
            return self.of(held, depth)
        said = repr(value)
        return "" if " at 0x" in said else said  # where it lies, and not what it holds
