"""The arguments of a recorded call, ready to be filled with tensors: what needs no look at every call is seen once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ziggurat.parallel.graph.graph import Call, Constant, State, Value, fill
from ziggurat.torch_internals.containers import tree_flatten


class Arguments:
    """What a call is called with.

    Args:
        call: Of a graph.
    """

    def __init__(self, call: Call) -> None:
        self.args, self.kwargs = tuple(call.args), dict(call.kwargs)
        self.values: list[tuple[int, Value]] = []  # the usual case: a tensor itself is a positional argument
        self.others: list[tuple[int | str, Any]] = []
        for place, one in [*enumerate(self.args), *self.kwargs.items()]:
            if isinstance(place, int) and isinstance(one, Value):
                self.values.append((place, one))
            elif not _is_plain(one):
                self.others.append((place, one))

    def filled(
        self, values: Mapping[Value, Tensor], state: Callable[[str], Tensor]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return positional and named arguments with tensors in their places; containers are new ones."""
        args, kwargs = list(self.args), dict(self.kwargs)
        for number, value in self.values:
            args[number] = values[value]
        for place, one in self.others:
            if isinstance(place, int):
                args[place] = fill(one, values, state)
            else:
                kwargs[place] = fill(one, values, state)
        return args, kwargs


def _is_plain(one: Any) -> bool:
    """Whether an argument stays as it is: neither a container nor in the place of a tensor."""
    if isinstance(one, (Value, State, Constant)):
        return False
    leaves, _ = tree_flatten(one)
    return len(leaves) == 1 and leaves[0] is one
