"""How a result lies in memory, as PyTorch would lay the whole out: pure functions of shapes and strides.

Random numbers are drawn in the order of memory, and whether reshaping copies depends on it. A worker's band may lie otherwise than
the whole would, by chance of its extents; so the whole's own strides are carried along, and those of results follow from them
alone: the same on every worker.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch

Shape = tuple[int, ...]
Strides = tuple[int, ...]

SHAPES = 1 << 12  # of which results are kept: a network asks for the same ones in each step

CHANNELS_LAST = {4: (1, 3, 2, 0), 5: (1, 4, 3, 2, 0)}
"""Dims of maps and volumes from the fastest to the slowest, by their number."""


def in_order(shape: Sequence[int], fastest_first: Sequence[int]) -> Strides:
    """Return the strides of a dense tensor whose dims lie in an order.

    Example:
        >>> in_order((2, 3, 4), (2, 1, 0)), in_order((2, 3, 4), (1, 2, 0))
        ((12, 4, 1), (12, 1, 3))
    """
    strides = [0] * len(shape)
    step = 1
    for dim in fastest_first:
        strides[dim] = step
        step *= max(shape[dim], 1)
    return tuple(strides)


def contiguous(shape: Sequence[int]) -> Strides:
    """Return the strides of a contiguous tensor."""
    return in_order(shape, range(len(shape) - 1, -1, -1))


def channels_last(shape: Sequence[int]) -> Strides:
    """Return the strides of maps, or volumes, whose channels lie together; of others those of a contiguous tensor."""
    order = CHANNELS_LAST.get(len(shape))
    return contiguous(shape) if order is None else in_order(shape, order)


def in_format(shape: Sequence[int], memory_format: torch.memory_format) -> Strides:
    """Return the strides of a tensor that is asked for in a format of PyTorch's, which has its number of dims.

    Example:
        >>> in_format((2, 3, 4, 5), torch.channels_last), in_format((2, 3, 4, 5), torch.contiguous_format)
        ((60, 1, 15, 3), (60, 20, 5, 1))
    """
    return contiguous(shape) if memory_format == torch.contiguous_format else channels_last(shape)


def suggests_channels_last(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether PyTorch takes a tensor for one whose channels lie together (``suggest_memory_format``).

    Example:
        >>> suggests_channels_last((2, 3, 4, 5), (60, 1, 15, 3)), suggests_channels_last((2, 3, 4, 5), (60, 20, 5, 1))
        (True, False)
    """
    order = CHANNELS_LAST.get(len(shape))
    if order is None or strides[1] == 0:
        return False
    least = 0
    for dim in order:
        if shape[dim] == 0 or strides[dim] < least:
            return False
        if dim == 0 and least == strides[1]:  # 1 x 1 maps are contiguous as well
            return False
        least = strides[dim] * max(shape[dim], 1)
    return True


def as_map_of_one_row(shape: Sequence[int], operand: tuple[Shape, Strides]) -> Strides:
    """Return the strides of what PyTorch computes of a series as of a map with one row.

    Args:
        shape: Of the result.
        operand: Shape and strides of the series.

    Example:
        >>> as_map_of_one_row((2, 4, 10), ((2, 4, 20), (80, 1, 4))), as_map_of_one_row((2, 4, 10), ((2, 4, 20), (80, 20, 1)))
        ((40, 1, 4), (40, 10, 1))
    """
    own, strides = operand
    row = own[-1] * strides[-1]
    is_last = suggests_channels_last((*own[:-1], 1, own[-1]), (*strides[:-1], row, strides[-1]))
    wide = (*shape[:-1], 1, shape[-1])
    found = channels_last(wide) if is_last else contiguous(wide)
    return (*found[:-2], found[-1])


def is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether a tensor fills its memory, without gaps and without two elements in one place.

    Example:
        >>> is_dense((2, 3), (1, 2)), is_dense((2, 3), (4, 1)), is_dense((2, 3), (0, 1))
        (True, False, False)
    """
    if 0 in shape:
        return True
    step = 1
    for stride, size in sorted(
        (stride, size) for stride, size in zip(strides, shape, strict=True) if size != 1
    ):
        if stride != step:
            return False
        step *= size
    return True


def may_overlap(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether two elements may lie in one place; False is certain.

    Example:
        >>> may_overlap((2, 3), (3, 1)), may_overlap((2, 3), (0, 1)), may_overlap((3, 4), (2, 1))
        (False, True, True)
    """
    if 0 in shape:
        return False
    end = 0  # the last place that the dims of smaller strides reach
    for stride, size in sorted(
        (stride, size) for stride, size in zip(strides, shape, strict=True) if size > 1
    ):
        if stride <= end:
            return True
        end += stride * (size - 1)
    return False


def same_strides(shape: Sequence[int], first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether strides are the same wherever it matters: where a dim has more than one element."""
    return 0 in shape or all(size == 1 or a == b for size, a, b in zip(shape, first, second, strict=True))


def elementwise(shape: Shape, operands: Sequence[tuple[Shape, Strides]]) -> Strides:
    """Return the strides of what is computed element by element (``TensorIterator``), or made ``like`` one operand.

    Args:
        shape: Of the result.
        operands: Shape and strides of each tensor; those of fewer dims, or of one element along a dim, are broadcast.

    Example:
        >>> elementwise((2, 3, 4), [((2, 3, 4), (12, 1, 3)), ((4,), (1,))])
        (12, 1, 3)
    """
    return _elementwise(shape, tuple(operands))


@functools.lru_cache(maxsize=SHAPES)
def _elementwise(shape: Shape, operands: tuple[tuple[Shape, Strides], ...]) -> Strides:
    whole = [strides for own, strides in operands if own == shape]
    if len(whole) == len(operands) and whole:
        if all(same_strides(shape, strides, contiguous(shape)) for strides in whole):
            return contiguous(shape)
        if len(shape) == 4 and all(same_strides(shape, strides, channels_last(shape)) for strides in whole):
            return channels_last(shape)
        if is_dense(shape, whole[0]) and all(other == whole[0] for other in whole[1:]):
            return whole[0]
    seen = [_broadcast(shape, own, strides) for own, strides in operands]
    order = list(range(len(shape) - 1, -1, -1))
    for i in range(1, len(order)):
        place = i
        for before in range(i - 1, -1, -1):
            compared = _compare(shape, seen, order[before], order[place])
            if compared > 0:
                order[before], order[place] = order[place], order[before]
                place = before
            elif compared < 0:
                break
    return in_order(shape, order)


def _broadcast(shape: Shape, own: Shape, strides: Strides) -> Strides:
    lead = len(shape) - len(own)
    return (0,) * lead + tuple(
        0 if size == 1 and shape[lead + d] != 1 else strides[d] for d, size in enumerate(own)
    )


def _compare(shape: Shape, operands: Sequence[Strides], first: int, second: int) -> int:
    """Say which of two dims is the slower one: 1 for the first, -1 for the second, 0 where no operand tells."""
    for strides in operands:
        if strides[first] == 0 or strides[second] == 0:
            continue
        if strides[first] != strides[second]:
            return 1 if strides[first] > strides[second] else -1
        if shape[first] > shape[second]:
            return 1
    return 0


def span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return the elements of memory from a tensor's first to its last one.

    Example:
        >>> span((2, 3), (4, 1)), span((0, 3), (3, 1))
        (7, 0)
    """
    if math.prod(shape) == 0:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
