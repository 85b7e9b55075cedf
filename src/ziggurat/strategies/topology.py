"""The topology: all workers of a run, arranged along the axes of its plan. The only place that makes their groups.

    dp=2, sp=2            sp 0      sp 1
                 dp 0   worker 0  worker 1      share the images of the first half of the microbatches
                 dp 1   worker 2  worker 3      share those of the second half

Neighbours along the innermost axis have neighbouring ranks, as they exchange the most:

    dp=2, pp=2, sp=2, tp=2      worker = ((dp * 2 + pp) * 2 + sp) * 2 + tp
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ziggurat.parallel.collectives.workers import Workers


class Topology:
    """This worker's view of all workers.

    Args:
        workers: All of them.
        sizes: Workers along each axis, the outermost first.

    Raises:
        ValueError: If the product is not the number of workers.
    """

    def __init__(self, workers: Workers, sizes: Mapping[str, int]) -> None:
        if math.prod(sizes.values()) != workers.size:
            raise ValueError(f"{dict(sizes)} is for {math.prod(sizes.values())} workers: got {workers.size}")
        self.workers, self.sizes = workers, dict(sizes)
        self._groups: dict[tuple[int, ...], Workers] = {tuple(range(workers.size)): workers}

    def coordinates(self, rank: int | None = None) -> dict[str, int]:
        """Return the place along each axis of a worker, this one by default."""
        rest, places = self.workers.rank if rank is None else rank, {}
        for axis, size in reversed(self.sizes.items()):
            rest, places[axis] = divmod(rest, size)
        return places

    def ranks(self, **fixed: int) -> list[int]:
        """Return the workers at some places along some axes, in order."""
        return [rank for rank in range(self.workers.size) if fixed.items() <= self.coordinates(rank).items()]

    def along(self, *axes: str) -> Workers:
        """Return the workers that differ from this one in their places along these axes alone, with it.

        Communication:
            At the first call with these axes, these workers meet to make a process group: all of them call this.
        """
        fixed = {axis: place for axis, place in self.coordinates().items() if axis not in axes}
        ranks = tuple(self.ranks(**fixed))
        if ranks not in self._groups:
            self._groups[ranks] = self.workers.subgroup(ranks)
        return self._groups[ranks]

    def label(self, rank: int) -> str:
        """Return a worker's number with its places, such as ``worker 3: dp 1, pp 1``."""
        return f"worker {rank}: " + ", ".join(
            f"{axis} {place}" for axis, place in reversed(self.coordinates(rank).items())
        )
