"""Which workers meet first where samples are spread: those that share a machine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from ziggurat.parallel.collectives.workers import Workers


def read_hierarchy(text: str) -> tuple[int, ...] | None:
    """Return the sizes of a hierarchy such as ``8x4``, the innermost first; None of ``auto`` and ``flat``."""
    return None if text in ("auto", "flat") else tuple(int(size) for size in text.split("x"))


def find_tiers(workers: Workers, hierarchy: str, machine: str) -> tuple[int, ...]:
    """Return how many workers meet in each tier, the innermost first.

    Args:
        workers: Of one axis; all of them call this.
        hierarchy: As ``launch.hierarchy`` has it. Sizes for another number of workers, which a run may have gone on with, count as ``auto``.
        machine: The name of this worker's.

    Communication:
        Under ``auto`` one gather of the machines' names.
    """
    return tiers_among(workers.size, hierarchy, lambda: workers.gather(machine))


def tiers_among(size: int, hierarchy: str, machines: Callable[[], Sequence[str]]) -> tuple[int, ...]:
    """Return how many workers meet in each tier, the innermost first.

    Args:
        size: How many workers there are.
        hierarchy: As `find_tiers` has it.
        machines: Returns the name of each worker's, in order of rank; called under ``auto``.

    Example:
        >>> tiers_among(8, "auto", lambda: "aabbccdd"), tiers_among(8, "2x2x2", list), tiers_among(8, "flat", list)
        ((2, 4), (2, 2, 2), (8,))
    """
    sizes = read_hierarchy(hierarchy)
    if sizes is not None and math.prod(sizes) == size:
        return sizes
    if hierarchy == "flat" or size < 4:  # no two machines of two
        return (size,)
    return tiers_of(machines())


def tiers_of(machines: Sequence[str]) -> tuple[int, ...]:
    """Return the tiers of workers on some machines: two, if as many neighbours share each machine; else one.

    Args:
        machines: The name of each worker's, in order of rank.

    Example:
        >>> tiers_of("aabbcc"), tiers_of("aaab"), tiers_of("abab"), tiers_of("aaaa")
        ((2, 3), (4,), (4,), (4,))
    """
    runs = [(name, len(list(same))) for name, same in itertools.groupby(machines)]
    names, sizes = {name for name, _ in runs}, {size for _, size in runs}
    if len(names) < len(runs) or len(sizes) > 1 or len(runs) in (1, len(machines)):
        return (len(machines),)
    return (*sizes, len(runs))
