"""The positions that a worker answers for, where several workers share each image.

Every position of a map is one worker's, by a rule of the map's extents alone. What a worker has of a map is these
positions; or, of a map that is too small to be cut, all of them, of which it takes its own::

    p3: 64 rows, worker 0 has [0, 32)    answers for [0, 32)
    p7: 3 rows,  worker 0 has [0, 3)     answers for [0, 1)

So each position counts once, and the workers' losses add up. A plain tensor is one worker's alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ziggurat.parallel.spatial import SpatialTensor, band_of, gather, whole_tensor
from ziggurat.parallel.spatial.geometry import Range, partition, ranges
from ziggurat.parallel.spatial.tensor import recut


@dataclass(frozen=True)
class Block:
    """Some rows and columns of a map.

    Attributes:
        rows: The first, and the one after the last.
        columns: The same.
        map_columns: Columns of the whole map.
    """

    rows: Range
    columns: Range
    map_columns: int

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.columns[1] - self.columns[0]


def own_block(map_BCHW: Tensor) -> Block:
    """Return the positions of a map that this worker answers for."""
    rows, columns = map_BCHW.shape[-2:]
    block = [(0, rows), (0, columns)]
    if isinstance(map_BCHW, SpatialTensor):
        for axis in map_BCHW.mesh.axes:
            bounds = partition((rows, columns)[axis.place], axis.size)
            block[axis.place] = ranges(bounds)[axis.rank]
    return Block(block[0], block[1], columns)


def own_part(map_BCHW: Tensor) -> Tensor:
    """Return what a map has at the positions that this worker answers for, as a plain tensor.

    Placement:
        Before, each worker has its band of the map, or all of it; after, its own positions.

    Communication:
        None, but for maps that are cut at other rows than the rule says: the rows that change their owner.
    """
    if not isinstance(map_BCHW, SpatialTensor):
        return map_BCHW
    x = map_BCHW
    for axis in x.mesh.axes:
        dim = 2 + axis.place
        if len(x.dims[dim]) > 1:  # made of several dims by reshaping
            x = gather(x, "the loss", only=[dim])
        bounds = partition(x.shape[dim], axis.size)
        if x.dims[dim][0].is_cut:
            x = recut(x, dim, 0, bounds)
    local = band_of(x)
    for axis in x.mesh.axes:
        dim = 2 + axis.place
        if not x.dims[dim][0].is_cut:
            start, stop = ranges(partition(x.shape[dim], axis.size))[axis.rank]
            local = local.narrow(dim, start, stop - start)
    return local


def whole_output(output: Tensor) -> tuple[Tensor, int]:
    """Return an output without positions, such as the logits of images, and how many workers have it.

    Where several have it, each takes an equal part of its loss.
    """
    workers = output.mesh.num_workers if isinstance(output, SpatialTensor) else 1
    return whole_tensor(output, "the loss"), workers
