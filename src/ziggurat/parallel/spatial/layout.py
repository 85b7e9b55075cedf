"""How a tensor lies on the workers: each dim is a product of factors, and a mesh axis may cut a factor into bands.

    maps of 2 x 8 x 64 x 48, rows cut over two workers      dims: 2 | 8 | 64 cut at 32 | 48
    the same, rows and columns flattened to tokens          dims: 2 | 8 | (64 cut at 32) x 48
    windows of 4 x 4, gathered into the batch               dims: 2 x (16 cut at 8) x 12 | 4 | 4 | 8

A dim that is a product of factors is what reshaping makes of several dims. With factors, permuting and reshaping are
local: nothing moves, except where a cut does not fall on a multiple of what is split off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Factor:
    """A factor of a dim.

    Attributes:
        size: On all workers together.
        axis: Number of the mesh axis that may cut it; None if it is not spatial.
        bounds: Of each worker's band; None where it is whole on every worker.
    """

    size: int
    axis: int | None = None
    bounds: tuple[int, ...] | None = None

    @property
    def is_cut(self) -> bool:
        """Whether each worker has a band of it only."""
        return self.bounds is not None

    def local(self, ranks: Sequence[int]) -> int:
        """Return the size on the worker that has these ranks along the axes."""
        if self.bounds is None or self.axis is None:
            return self.size
        rank = ranks[self.axis]
        return self.bounds[rank + 1] - self.bounds[rank]

    def whole(self) -> Factor:
        """Return the factor as it is when every worker has all of it."""
        return replace(self, bounds=None)


Dim = tuple[Factor, ...]
Dims = tuple[Dim, ...]


def plain(size: int) -> Dim:
    """Return a dim that is not spatial."""
    return (Factor(size),)


def size_of(dim: Dim) -> int:
    """Return a dim's size on all workers together."""
    return dim[0].size if len(dim) == 1 else math.prod([factor.size for factor in dim])


def shape_of(dims: Dims) -> tuple[int, ...]:
    """Return the shape on all workers together.

    Example:
        >>> shape_of((plain(2), (Factor(8, 0, (0, 4, 8)), Factor(6))))
        (2, 48)
    """
    return tuple([dim[0].size if len(dim) == 1 else size_of(dim) for dim in dims])


def local_size(dim: Dim, ranks: Sequence[int]) -> int:
    """Return a dim's size on one worker."""
    return math.prod(factor.local(ranks) for factor in dim)


def is_cut(dim: Dim) -> bool:
    """Whether a dim has a factor that is cut."""
    return any(factor.is_cut for factor in dim)


def cuts(dims: Dims) -> dict[int, tuple[int, int]]:
    """Return where each axis cuts: from its number to the dim and the place of the factor in it.

    Example:
        >>> cuts((plain(2), (Factor(8, 0, (0, 4, 8)), Factor(6))))
        {0: (1, 0)}
    """
    return {
        factor.axis: (d, k)
        for d, dim in enumerate(dims)
        for k, factor in enumerate(dim)
        if factor.is_cut and factor.axis is not None
    }


class AxisCutsTwice(ValueError):  # noqa: N818 - reads as what happened
    """A layout in which one axis cuts two dims."""


def one_dim_an_axis(dims: Dims) -> Dims:
    """Return a layout in which each axis has one dim: the one that it cuts, otherwise the first that it may.

    Raises:
        AxisCutsTwice: If an axis cuts two dims: then workers with the same rows of one have different rows of the other.

    Example:
        >>> one_dim_an_axis(((Factor(8, 0),), (Factor(8, 0, (0, 4, 8)),)))[0]
        (Factor(size=8, axis=None, bounds=None),)
    """
    places = [
        (factor.axis, d, k)
        for d, dim in enumerate(dims)
        for k, factor in enumerate(dim)
        if factor.axis is not None
    ]
    if len(places) < 2 or len(places) == len({axis for axis, _, _ in places}):
        return dims
    changed = [list(dim) for dim in dims]
    for axis in {axis for axis, _, _ in places}:
        own = [(d, k) for other, d, k in places if other == axis]
        cut = [(d, k) for d, k in own if dims[d][k].is_cut]
        if len(cut) > 1:
            raise AxisCutsTwice(f"the axis {axis} cuts two dims: {dims}")
        for d, k in own:
            if (d, k) != (cut or own)[0]:
                changed[d][k] = Factor(dims[d][k].size)
    return tuple(tuple(dim) for dim in changed)


def simplify(dim: Sequence[Factor]) -> Dim:
    """Join neighbouring factors that are not spatial, and drop those of size 1 where others remain.

    Example:
        >>> simplify([Factor(2), Factor(3), Factor(1, 0)])
        (Factor(size=6, axis=None, bounds=None),)
    """
    kept: list[Factor] = []
    for factor in dim:
        if factor.size == 1 and not factor.is_cut and len(dim) > 1:
            continue
        if kept and kept[-1].axis is None and factor.axis is None:
            kept[-1] = Factor(kept[-1].size * factor.size)
        else:
            kept.append(factor)
    return tuple(kept) or (Factor(1),)


@dataclass(frozen=True)
class Split:
    """How one factor of the input of a reshape is split over dims of its output.

    Attributes:
        dim: The input's dim.
        place: The factor's place in it.
        sizes: Of the pieces, in order; their product is the factor's size.
    """

    dim: int
    place: int
    sizes: tuple[int, ...]

    @property
    def leading(self) -> int:
        """The piece that takes the cut: the first that is larger than 1."""
        return next((i for i, size in enumerate(self.sizes) if size > 1), 0)

    @property
    def multiple(self) -> int:
        """What every bound must be a multiple of."""
        return math.prod(self.sizes[self.leading + 1 :])


def plan_reshape(dims: Dims, shape: Sequence[int]) -> tuple[list[Split], list[list[int]]]:
    """Say how factors are split and joined by a reshape.

    Args:
        dims: Of the input.
        shape: Of the output, on all workers together.

    Returns:
        The split of each factor of the input, in order; and for each dim of the output the numbers of the pieces that
        make it, counted over all splits. Dims of size 1 may have none.

    Raises:
        ValueError: If a dim of the output begins or ends inside of factors whose sizes do not divide.

    Example:
        >>> splits, joins = plan_reshape((plain(2), plain(12)), (2, 3, 4))
        >>> [split.sizes for split in splits], joins
        ([(2,), (3, 4)], [[0], [1], [2]])
    """
    sizes = [(d, k, factor.size) for d, dim in enumerate(dims) for k, factor in enumerate(dim)]
    pieces: list[list[int]] = [[] for _ in sizes]
    joins: list[list[int]] = []
    place, rest, count = 0, sizes[0][2] if sizes else 1, 0
    for size in shape:
        missing, numbers = size, []
        while missing > 1:
            while rest == 1:
                if not pieces[place]:  # a factor of size 1 is a piece of its own
                    pieces[place].append(1)
                    numbers.append(count)
                    count += 1
                place += 1
                rest = sizes[place][2]
            piece = min(missing, rest)
            if max(missing, rest) % piece:
                raise ValueError(f"{missing} and {rest} do not divide each other")
            pieces[place].append(piece)
            numbers.append(count)
            count += 1
            missing //= piece
            rest //= piece
        joins.append(numbers)
    for number, made in enumerate(pieces):
        if not made:
            pieces[number].append(sizes[number][2])
            if joins:
                joins[-1].append(count)
            count += 1
    splits = [Split(d, k, tuple(made)) for (d, k, _), made in zip(sizes, pieces, strict=True)]
    return splits, joins
