"""What a graph calls in the place of what a network has called: its calls return all that they have made or changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ziggurat.parallel.graph.graph import tensors_in
from ziggurat.torch_internals.functions import is_of_custom_function


@dataclass(frozen=True)
class Applied:
    """A custom autograd function."""

    function: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Apply it."""
        return self.function.apply(*args, **kwargs)


def is_called_unseen(tensor: Tensor, function: Any) -> bool:
    """Whether a custom function was called out of sight, by a name that was given to its ``apply`` before.

    What its forward computes was seen instead, and that is not what is differentiated.

    Args:
        tensor: Of the trace.
        function: What seems to have made it; None for a layer that is one call.
    """
    return function is not None and not isinstance(function, Applied) and is_of_custom_function(tensor)


def call_and_keep(
    func: Callable[..., Any], which: list[int], *args: Any, **kwargs: Any
) -> tuple[Any, list[Tensor]]:
    """Call a function that overwrites arguments, and return these, too."""
    given = tensors_in((args, kwargs))
    return func(*args, **kwargs), [given[number] for number in which]
