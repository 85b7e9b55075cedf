"""Which workers meet in which tier: pure numbers.

Workers of consecutive ranks meet first, in groups of the innermost size; then those that have the same place in neighbouring
groups meet, and so on::

    2 x 3 workers    tier 0: {0, 1} {2, 3} {4, 5}    tier 1: {0, 2, 4} {1, 3, 5}
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def place_in(rank: int, tiers: Sequence[int]) -> tuple[int, ...]:
    """Return a worker's place in its group of each tier, the innermost first.

    Example:
        >>> [place_in(rank, (2, 3)) for rank in range(4)]
        [(0, 0), (1, 0), (0, 1), (1, 1)]
    """
    places = []
    for size in tiers:
        rank, place = divmod(rank, size)
        places.append(place)
    return tuple(places)


def members(rank: int, tiers: Sequence[int], number: int) -> range:
    """Return the ranks of a worker's group of a tier.

    Example:
        >>> list(members(3, (2, 3), 0)), list(members(3, (2, 3), 1))
        ([2, 3], [1, 3, 5])
    """
    inner = math.prod(tiers[:number])
    first = rank - place_in(rank, tiers)[number] * inner
    return range(first, first + tiers[number] * inner, inner)


def slices(tiers: Sequence[int], sizes: Sequence[int]) -> list[range]:
    """Return where each worker's slice lies, in order of rank: the pieces of the innermost tier come one after the other.

    Args:
        tiers: How many workers meet in each, the innermost first; their product is the number of workers.
        sizes: Elements of each worker's slice.

    Example:
        >>> slices((2, 2), [5, 1, 1, 1])
        [range(0, 5), range(6, 7), range(5, 6), range(7, 8)]
    """
    order = sorted(range(len(sizes)), key=lambda rank: place_in(rank, tiers))
    starts = dict(zip(order, itertools.accumulate((sizes[rank] for rank in order), initial=0), strict=False))
    return [range(starts[rank], starts[rank] + size) for rank, size in enumerate(sizes)]


def even_slices(length: int, num_workers: int) -> list[int]:
    """Return the sizes of equal slices for all workers, which together hold `length` elements or a few more."""
    return [-(-length // num_workers)] * num_workers
