"""What was made last for each of the keys that were asked for last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Sizes of image times modes (training or not, autocast, gradients) of which a network's graph is kept, and what is made of it: more
# than multi-scale training has. An evaluation of images of every size would keep a graph for each otherwise.
MOST_KEPT = 64


class Recent(Generic[K, V]):
    """Values by key; the one that was not asked for the longest goes when there are too many.

    Args:
        most: How many are kept.

    Example:
        >>> squares = Recent[int, int](most=2)
        >>> [squares.get(number, lambda: number**2) for number in (1, 2, 1, 3)]
        [1, 4, 1, 9]
        >>> list(squares.kept)
        [1, 3]
    """

    def __init__(self, most: int = MOST_KEPT) -> None:
        self.most = most
        self.kept: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of a key, made now if it is not there."""
        if key not in self.kept:
            self.kept[key] = make()
        self.kept.move_to_end(key)
        while len(self.kept) > self.most:
            self.kept.popitem(last=False)
        return self.kept[key]
