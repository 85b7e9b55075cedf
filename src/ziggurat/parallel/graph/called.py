"""What a graph calls in the place of what a network has called: its calls return all that they have made or changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ziggurat.parallel.graph.graph import tensors_in


@dataclass(frozen=True)
class Applied:
    """A custom autograd function."""

    function: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Apply it."""
        return self.function.apply(*args, **kwargs)


def call_and_keep(
    func: Callable[..., Any], which: list[int], *args: Any, **kwargs: Any
) -> tuple[Any, list[Tensor]]:
    """Call a function that overwrites arguments, and return these, too."""
    given = tensors_in((args, kwargs))
    return func(*args, **kwargs), [given[number] for number in which]
