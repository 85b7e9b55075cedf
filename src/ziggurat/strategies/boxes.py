"""Boxes: half-open intervals of a tensor's elements, one interval for each dim.

whole (4, 6)          a box is where all its intervals meet; what is left of a box without another is again boxes:

. . . . . .           [0, 4) x [0, 6)  minus  [1, 3) x [2, 4):
. . B B . .             above [0, 1) x [0, 6)      left  [1, 3) x [0, 2)
. . B B . .             below [3, 4) x [0, 6)      right [1, 3) x [4, 6)
. . . . . .
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor


class Box(NamedTuple):
    """Elements of a tensor, by the half-open interval of each dim; of a number without dims, all of it.

    Attributes:
        start: First index along each dim.
        stop: Index after the last one.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int]) -> Box:
        """Return the box of all elements of a tensor."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """The extent along each dim."""
        return tuple(stop - start for start, stop in zip(self.start, self.stop, strict=True))

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def narrow(self, dim: int, start: int, size: int) -> Box:
        """Return a part of the box.

        Args:
            dim: The dim that is cut; negative numbers count from the last.
            start: Where the part begins, counted from the box's own start.
            size: The part's extent.

        Example:
            >>> Box((4, 0), (8, 3)).narrow(0, 1, 2)
            Box(start=(5, 0), stop=(7, 3))
        """
        dim %= len(self.start)
        first = self.start[dim] + start
        return Box(
            (*self.start[:dim], first, *self.start[dim + 1 :]),
            (*self.stop[:dim], first + size, *self.stop[dim + 1 :]),
        )

    def intersect(self, other: Box) -> Box:
        """Return the elements of both, a box without elements where there are none."""
        start = tuple(map(max, self.start, other.start))
        return Box(start, tuple(map(max, start, map(min, self.stop, other.stop))))

    def minus(self, other: Box) -> list[Box]:
        """Return the elements that the other box has not, as boxes that have none in common.

        Example:
            >>> Box((0, 0), (4, 6)).minus(Box((1, 2), (9, 6)))
            [Box(start=(0, 0), stop=(1, 6)), Box(start=(1, 0), stop=(4, 2))]
        """
        common = self.intersect(other)
        if not common.numel:
            return [self] if self.numel else []
        rest, left = [], self
        for dim, (start, stop) in enumerate(zip(common.start, common.stop, strict=True)):
            for low, high in ((left.start[dim], start), (stop, left.stop[dim])):
                if low < high:
                    rest.append(left.narrow(dim, low - left.start[dim], high - low))
            left = left.narrow(dim, start - left.start[dim], stop - start)
        return rest

    def within(self, outer: Box) -> tuple[slice, ...]:
        """Return the indices of this box's elements in a tensor that holds the elements of another box."""
        return tuple(
            slice(start - first, stop - first)
            for start, stop, first in zip(self.start, self.stop, outer.start, strict=True)
        )

    def of_tensor(self, tensor: Tensor) -> Tensor:
        """Return a view of the box's elements in a whole tensor."""
        return tensor[tuple(map(slice, self.start, self.stop))]


def subtract(box: Box, others: Iterable[Box]) -> list[Box]:
    """Return the elements of a box that are in none of the others, as boxes that have none in common."""
    rest = [box] if box.numel else []
    for other in others:
        rest = [part for one in rest for part in one.minus(other)]
    return rest
