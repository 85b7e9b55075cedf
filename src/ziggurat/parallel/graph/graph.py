"""What a network computes, as a list of calls: what can be cut into stages.

A call is of a whole layer (a convolution, a batch norm) or of one of PyTorch's functions. Tensors between calls are named by
the call that made them. A cut is a place between two calls, and is written as the name of the layer that is called
after it; of a layer that is called several times (the head of a detector, on every level) as ``head.tower:3`` for its
third call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from ziggurat.parallel.graph.faults import Kind
from ziggurat.parallel.graph.generators import Generators
from ziggurat.parallel.graph.uses import Uses
from ziggurat.torch_internals.containers import tree_flatten, tree_leaves, tree_unflatten

INPUT = -1  # the number of the call that made the network's input


class Value(NamedTuple):
    """A tensor that a call has made.

    Attributes:
        call: Number of the call.
        place: Which of its tensors.
    """

    call: int
    place: int


class State(NamedTuple):
    """A parameter or buffer, by its name."""

    name: str


class Constant(NamedTuple):
    """A tensor that the network holds, but neither as a parameter nor as a buffer."""

    tensor: Tensor


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        layer: Name of the layer that is called, or that calls the function; empty for the network itself.
        function: None where the layer itself is called.
        args: With a `Value`, `State` or `Constant` in the place of every tensor.
        kwargs: The same.
        uses: The values among them.
        states: Parameters and buffers that it reads: those of its arguments, and of a layer all.
        gradients: Whether gradients were enabled.
        autocast: Whether autocast was.
        writes: Values of its arguments that it overwrites.
    """

    layer: str
    function: Callable[..., Any] | None
    args: Any
    kwargs: Any
    uses: tuple[Value, ...]
    states: tuple[str, ...]
    gradients: bool = True
    autocast: bool = False
    writes: tuple[Value, ...] = ()


@dataclass(eq=False)
class Graph:
    """All calls of one forward pass, in order.

    Attributes:
        calls: The calls.
        starts: Number of the first call in each call of a layer, by ``layer`` or ``layer:2``.
        outputs: What the network returns, with a `Value` in the place of every tensor.
        memory_of: A number for the memory that each value lies in: views share it.
        copied: Values that are copied where they are made: they are changed in place when autograd may need them as they were.
        roots: Values that are the whole of a memory which their call has made: who has them has all of it, in its order.
        num_bytes: Of each value, as far as is known.
        written_states: Buffers that a forward pass changes.
        uses: Which modules ran, and within which each weight is used; None where layers were taken without a look inside.
        draws_numbers: Whether layers draw numbers, by which they may choose what they compute.
        numbers: States of NumPy's and Python's generators as the network has left them between calls, by the number of the next call.
        faults: What the network does that is not among the calls, by kind.
    """

    calls: list[Call] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)
    outputs: Any = None
    memory_of: dict[Value, int] = field(default_factory=dict)
    copied: set[Value] = field(default_factory=set)
    roots: set[Value] = field(default_factory=set)
    num_bytes: dict[Value, int] = field(default_factory=dict)
    written_states: set[str] = field(default_factory=set)
    uses: Uses | None = None
    draws_numbers: bool = False
    numbers: dict[int, Generators] = field(default_factory=dict)
    faults: dict[Kind, str] = field(default_factory=dict)

    def output_values(self) -> list[Value]:
        """Return the values among the outputs, in order."""
        return list(values_in(self.outputs))

    def users(self) -> dict[Value, list[int]]:
        """Return the numbers of the calls that use each value that any uses, in order."""
        found: dict[Value, list[int]] = {}
        for number, call in enumerate(self.calls):
            for value in call.uses:
                found.setdefault(value, []).append(number)
        return found

    def last_uses(self) -> dict[Value, int]:
        """Return the number of the last call that uses each value; outputs are used after all calls."""
        uses = {value: numbers[-1] for value, numbers in self.users().items()}
        return uses | dict.fromkeys(self.output_values(), len(self.calls))

    def places(self) -> dict[str, int]:
        """Return where the network can be cut: the number of the call after the cut, by the layer's name.

        Left out are places that would part what must stay together: the uses of a buffer that changes (running
        statistics of a batch norm that is used twice), and an overwritten tensor from other views of its memory.
        """
        closed = self._closed() + self.parted_ranges()
        return {
            name: place
            for name, place in self.starts.items()
            if 0 < place < len(self.calls) and not any(first < place <= last for first, last in closed)
        }

    def _closed(self) -> list[tuple[int, int]]:
        """Return ranges of calls that must stay together, as the first and the last."""
        closed = []
        users: dict[str, list[int]] = {}
        for number, call in enumerate(self.calls):
            for name in call.states:
                users.setdefault(name, []).append(number)
        closed += [(users[name][0], users[name][-1]) for name in self.written_states if name in users]
        return closed + self.hooked_ranges()

    def hooked_ranges(self) -> list[tuple[int, int]]:
        """Return ranges of calls from that which makes a tensor to that which registers a hook on it.

        Where it is made all of its gradient comes together.
        """
        found = []
        for number, call in enumerate(self.calls):
            if call.function is hook_gradient:
                found += [(value.call, number) for value in call.uses]
        return found

    def overwritten_ranges(self) -> list[tuple[int, int]]:
        """Return ranges of calls in which a tensor is overwritten while its memory is in use under the names that it had before.

        A range begins where the memory is made, not where the view is: values that are sent one by one no longer share it.
        """
        return [(first, last) for first, last, _ in self._overwritten()]

    def parted_ranges(self) -> list[tuple[int, int]]:
        """Return those ranges without the places at which all that is sent of the memory is its root, for stages in their order.

        There whoever goes on with it makes the views anew, and has the memory as it was left (see `stages.make_stages`)::

            y = conv(x)          made: y is its memory's root
            z = last(y.tanh())   a cut before this sends y alone, though y is overwritten under another name, and read, later
            part = y[:, :2]
            y.mul_(2)            a cut before this would send y and part, which would be two memories
            return z + part
        """
        last_uses = self.last_uses()
        by_memory = self._by_memory()
        closed = []
        for first, last, memory in self._overwritten():
            values = by_memory[memory]
            for place in range(first + 1, last + 1):
                sent = [value for value in values if value.call < place <= last_uses.get(value, -1)]
                if len(sent) > 1 or not self.roots.issuperset(sent) or not self.copied.isdisjoint(values):
                    closed.append((place - 1, place))
        return closed

    def _overwritten(self) -> list[tuple[int, int, int]]:
        """Return the ranges of `overwritten_ranges`, each with its memory."""
        found = []
        last_uses, by_memory = self.last_uses(), self._by_memory()
        for number, call in enumerate(self.calls):
            for written in call.writes:
                memory = self.memory_of[written]
                older = [value for value in by_memory[memory] if value.call < number]
                if any(
                    (other != written and other in call.writes) or last_uses.get(other, -1) > number
                    for other in older
                ):  # what a call has changed under two names has two new ones, which are one memory still
                    found.append((min(value.call for value in older), number, memory))
        return found

    def _by_memory(self) -> dict[int, list[Value]]:
        found: dict[int, list[Value]] = {}
        for value, memory in self.memory_of.items():
            found.setdefault(memory, []).append(value)
        return found

    def has_other_views_of_copied(self) -> bool:
        """Whether other values in the memory of one that is copied are older than the copy, and used after it."""
        last_uses = self.last_uses()
        return any(
            memory == self.memory_of[value]
            and other != value
            and other.call <= value.call < last_uses.get(other, -1)
            for value in self.copied
            for other, memory in self.memory_of.items()
        )

    def crossing_bytes(self) -> list[int]:
        """Return, for each call, the bytes of the tensors that cross a cut before it: those made before, and used there or later."""
        changes = [0] * (len(self.calls) + 2)
        for value, last in self.last_uses().items():
            if last > value.call:
                size = self.num_bytes.get(value, 0)
                changes[value.call + 1] += size
                changes[last + 1] -= size
        return list(itertools.accumulate(changes))[: len(self.calls)]


def hook_gradient(tensor: Tensor, hook: Callable[[Tensor], Tensor | None]) -> None:
    """Register a hook on a tensor, where it has a gradient."""
    if tensor.requires_grad:
        tensor.register_hook(hook)


def values_in(structure: Any) -> Iterator[Value]:
    """Yield the values in containers of any depth, in order."""
    leaves, _ = tree_flatten(structure, is_leaf=_is_mark)
    yield from (leaf for leaf in leaves if isinstance(leaf, Value))


def fill(structure: Any, values: Mapping[Value, Tensor], state: Callable[[str], Tensor]) -> Any:
    """Return a structure with tensors in the places of values, states and constants."""
    leaves, spec = tree_flatten(structure, is_leaf=_is_mark)
    filled = [
        values[leaf]
        if isinstance(leaf, Value)
        else state(leaf.name)
        if isinstance(leaf, State)
        else leaf.tensor
        if isinstance(leaf, Constant)
        else leaf
        for leaf in leaves
    ]
    return tree_unflatten(filled, spec)


def tensors_in(structure: Any) -> list[Tensor]:
    """Return the tensors in containers of any depth, in order."""
    return [leaf for leaf in tree_leaves(structure) if isinstance(leaf, Tensor)]


def _is_mark(leaf: Any) -> bool:
    return isinstance(leaf, (Value, State, Constant))
