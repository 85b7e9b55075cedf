"""Which tensors of a trace may share memory when the network runs: a tensor without memory does not tell the order of one that has some.

`contiguous` returns its tensor itself where that is in standard order already, and a copy elsewhere; `reshape` is a view or a copy.
Which of these it is depends on strides, and those of tensors on the meta device are not those of the CPU's and the GPU's kernels: a
convolution of channels-last images has channels-last outputs there, and contiguous ones on meta. So the trace takes neither for
granted. What a call returns is a value of its own also where it is one of the arguments (the call decides anew when it runs),
and the memory of both counts as one: they are not cut apart where one of them is changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from ziggurat.parallel.graph.graph import Value, tensors_in
from ziggurat.parallel.spatial.strides import is_dense
from ziggurat.torch_internals.containers import tree_map
from ziggurat.torch_internals.tensors import is_computed_again, is_view, memory_key, version_of

BY_ORDER = {
    "contiguous", "reshape", "reshape_as", "flatten", "ravel", "to", "type", "type_as", "float", "double", "half", "bfloat16",
    "cpu", "cuda",
}  # fmt: skip
"""Functions that return a tensor itself, a view of it or a copy, as its type and the order of its memory are."""


class Sharing:
    """Takes note of memories that may be one."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}
        self._kept: list[Tensor] = []  # or a memory's number might come again
        self._again: set[int] = set()  # memories that a checkpoint has made
        self._within: set[Value] = set()

    def root(self, memory: int) -> int:
        """Return the number that stands for all memories that may be the same one."""
        while memory in self._parents:
            memory = self._parents[memory]
        return memory

    def name(self, tensor: Tensor, value: Value) -> None:
        """Note the value that stands for a tensor."""
        if is_computed_again():
            self._again.add(memory_key(tensor))
            self._within.add(value)

    def written(self, tensor: Tensor, value: Value | None) -> Literal["", "copied", "lost"]:
        """Note that a tensor is changed in place, and say what is to be done about it.

        What a checkpoint has computed may be changed behind it, also where autograd needs it: it is computed again. Calls in
        stages know no checkpoint. There the value is copied where it is made, and the copy is changed.

        Returns:
            ``copied`` for a value of a checkpoint that is over; ``lost`` for another value of its memory, such as a view.
        """
        if memory_key(tensor) not in self._again or is_computed_again():
            return ""
        return "copied" if value in self._within else "lost"

    def call(self, func: Any, given: Sequence[Tensor], result: Any) -> None:
        """Note a function that may return its first tensor's memory or another."""
        if getattr(func, "__name__", "") not in BY_ORDER or not given:
            return
        source = given[0]
        for made in tensors_in(result):
            if made.dtype == source.dtype and made.numel() == source.numel():
                self._join(source, made)

    @staticmethod
    def roots(
        func: Callable[..., Any] | None, made: Sequence[Tensor], used: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return those of the tensors which a call returns that are the whole of a memory which it has made.

        Args:
            func: None for a layer.
            made: What it returns.
            used: What its memory might be instead: its arguments, and what a layer has.
        """
        if getattr(func, "__name__", "") in BY_ORDER:
            return []
        old = set(map(memory_key, used))
        return [
            one
            for one in made
            if memory_key(one) not in old and not is_view(one) and is_dense(one.shape, one.stride())
        ]

    def apart(
        self,
        func: Callable[..., Any] | None,
        result: Any,
        versions: Sequence[tuple[Tensor, int]],
        used: Sequence[Tensor],
    ) -> Any:
        """Return what a call has returned, with a view in the place of each argument that was not changed.

        Args:
            func: None for a layer.
            result: Its result.
            versions: Arguments (and for a layer what it has) with their versions before.
            used: Arguments as the call had them: without memory.
        """
        self.call(func, used, result)
        if func is not None and getattr(func, "__name__", "").endswith("_"):
            return result  # it says that it changes its tensor, if only whether it wants a gradient
        same = {id(tensor) for tensor, version in versions if version_of(tensor) == version}
        if not same.intersection(map(id, tensors_in(result))):
            return result
        return tree_map(lambda one: one.view_as(one) if id(one) in same else one, result)

    def _join(self, first: Tensor, second: Tensor) -> None:
        one, other = self.root(memory_key(first)), self.root(memory_key(second))
        if one != other:
            self._parents[one] = other
            self._kept += [first, second]
