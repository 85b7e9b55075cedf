"""Which input rows an output row needs: exact interval arithmetic on global indices, as pure functions.

A *range* ``(start, stop)`` is half open. Rows of a range that lie below 0 or past the extent are *virtual*: padding.

    input rows      0   1   2   3   4   5   6   7          kernel 3, stride 2, padding 1, dilation 1
                  +---------------+---------------+
    worker 0      | band          |
    worker 1                      | band          |
    output rows     0       1       2       3
    worker 1 has outputs [2, 4): it needs inputs [2*2 - 1, 3*2 - 1 + 2 + 1) = [3, 8): row 3 is its halo
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

Range = tuple[int, int]


def partition(extent: int, parts: int) -> tuple[int, ...]:
    """Return the bounds that cut an extent into bands: a function of the extent alone.

    Two tensors of the same extent are therefore cut at the same rows, whatever operations they come from. Bands
    differ by one row at most; some are empty where the extent is smaller than the number of parts.

    Example:
        >>> partition(7, 3), partition(2, 3)
        ((0, 2, 4, 7), (0, 0, 1, 2))
    """
    return tuple(extent * part // parts for part in range(parts + 1))


def scaled_partition(extent: int, parts: int, multiple: int) -> tuple[int, ...]:
    """Return bounds that are multiples of a number which divides the extent.

    Example:
        >>> scaled_partition(14, 2, 7), scaled_partition(12, 2, 4)
        ((0, 7, 14), (0, 4, 12))
    """
    return tuple(bound * multiple for bound in partition(extent // multiple, parts))


def ranges(bounds: Sequence[int]) -> list[Range]:
    """Return the range of each worker.

    Example:
        >>> ranges((0, 2, 4, 7))
        [(0, 2), (2, 4), (4, 7)]
    """
    return list(itertools.pairwise(bounds))


def range_of(bounds: Sequence[int], rank: int) -> Range:
    """Return the range of one worker.

    Example:
        >>> range_of((0, 2, 4, 7), 1)
        (2, 4)
    """
    return bounds[rank], bounds[rank + 1]


def intersect(one: Range, other: Range) -> Range:
    """Return what two ranges share; where they share nothing, an empty range inside of `one`.

    Example:
        >>> intersect((2, 6), (4, 9)), intersect((2, 4), (6, 9))
        ((4, 6), (4, 4))
    """
    start = min(max(one[0], other[0]), one[1])
    return start, max(start, min(one[1], other[1]))


def window_extent(extent: int, kernel: int, stride: int, padding: Range, dilation: int) -> int:
    """Return the number of output rows of a window operation.

    Raises:
        ValueError: If the window is larger than the padded input.

    Example:
        >>> window_extent(8, kernel=3, stride=2, padding=(1, 1), dilation=1)
        4
    """
    span = extent + padding[0] + padding[1] - dilation * (kernel - 1) - 1
    if span < 0:
        raise ValueError(
            f"a window of {dilation * (kernel - 1) + 1} must fit into the padded extent: got "
            f"{extent + padding[0] + padding[1]}; give a larger image, or a smaller kernel"
        )
    return span // stride + 1


def window_input(outputs: Range, kernel: int, stride: int, padding: int, dilation: int) -> Range:
    """Return the input rows that output rows need; virtual ones are padding.

    Args:
        outputs: Output rows ``[i, j)``.
        kernel: Rows of the window.
        stride: Input rows between windows.
        padding: Virtual rows before the first.
        dilation: Input rows between the window's taps.

    Returns:
        ``[i * s - p, (j - 1) * s - p + d * (k - 1) + 1)``; an empty range for no outputs.

    Example:
        >>> window_input((2, 4), kernel=3, stride=2, padding=1, dilation=1)
        (3, 8)
    """
    start, stop = outputs
    first = start * stride - padding
    if start >= stop:
        return first, first
    return first, (stop - 1) * stride - padding + dilation * (kernel - 1) + 1


def transposed_extent(
    extent: int, kernel: int, stride: int, padding: int, dilation: int, output_padding: int
) -> int:
    """Return the number of output rows of a transposed convolution.

    Example:
        >>> transposed_extent(4, kernel=4, stride=2, padding=1, dilation=1, output_padding=0)
        8
    """
    return (extent - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1


def transposed_input(outputs: Range, kernel: int, stride: int, padding: int, dilation: int) -> Range:
    """Return the input rows that output rows of a transposed convolution need; virtual ones count as zeros.

    Input row ``i`` reaches the outputs ``i * s - p`` to ``i * s - p + d * (k - 1)``. The range is wide enough that what
    it reaches covers the outputs without a gap at either end, also where the stride is larger than the window.

    Example:
        >>> transposed_input((4, 8), kernel=4, stride=2, padding=1, dilation=1)
        (1, 5)
    """
    start, stop = outputs
    reach = dilation * (kernel - 1)
    first = min(-((reach - padding - start) // stride), (start + padding) // stride)
    if start >= stop:
        return first, first
    return first, max((stop - 1 + padding) // stride, -((reach - padding - stop + 1) // stride)) + 1


def pooled_extent(extent: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Return the number of output rows of a pooling; with `ceil_mode` no window starts in the right padding.

    Example:
        >>> pooled_extent(7, 2, 2, 0, 1, ceil_mode=False), pooled_extent(7, 2, 2, 0, 1, ceil_mode=True)
        (3, 4)
    """
    extra = stride - 1 if ceil_mode else 0
    rows = (extent + 2 * padding - dilation * (kernel - 1) - 1 + extra) // stride + 1
    if ceil_mode and (rows - 1) * stride >= extent + padding:
        rows -= 1
    return rows


def bin_range(index: int, extent: int, bins: int) -> Range:
    """Return the input rows of a bin of adaptive pooling.

    Example:
        >>> [bin_range(i, 7, 3) for i in range(3)]
        [(0, 3), (2, 5), (4, 7)]
    """
    return index * extent // bins, -(-(index + 1) * extent // bins)
