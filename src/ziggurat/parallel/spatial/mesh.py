"""From workers to the spatial axes of a mesh."""

from __future__ import annotations

import torch.distributed as dist

from ziggurat.parallel.spatial.exchange import Axis
from ziggurat.parallel.spatial.tensor import MIN_ROWS, SpatialMesh
from ziggurat.parallel.workers import Workers


def spatial_mesh(workers: Workers, degrees: tuple[int, ...], min_rows: int = MIN_ROWS) -> SpatialMesh:
    """Arrange workers in a grid over the spatial dims.

    Args:
        workers: As many as the product of the degrees, row by row of the grid.
        degrees: Workers along each spatial dim: ``(2,)`` cuts rows, ``(1, 2)`` columns, ``(2, 2)`` makes tiles.
        min_rows: Fewest rows of a worker, see `SpatialMesh`.

    Raises:
        ValueError: If the number of workers is not the product.

    Communication:
        The workers of each line meet to make its process group.
    """
    count = 1
    for degree in degrees:
        count *= degree
    if count != workers.size:
        raise ValueError(f"the degrees {degrees} need {count} workers: got {workers.size}")
    axes = []
    stride = workers.size
    for place, degree in enumerate(degrees):
        stride //= degree
        if degree > 1:
            axes.append(Axis(_line(workers, degree, stride), place))
    return SpatialMesh(tuple(axes), min_rows)


def _line(workers: Workers, degree: int, stride: int) -> Workers:
    """Return the workers of one axis that this worker is among."""
    if degree == workers.size:
        return workers
    assert workers.group is not None
    first = workers.rank - workers.rank // stride % degree * stride
    ranks = [dist.get_global_rank(workers.group, first + stride * number) for number in range(degree)]
    # named by its members: where images of several groups are computed, each of these makes its own lines
    group = dist.new_group(ranks, use_local_synchronization=True)
    assert isinstance(group, dist.ProcessGroup)  # this worker is a member
    return Workers((workers.rank - first) // stride, degree, workers.device, group)
