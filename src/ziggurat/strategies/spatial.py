"""Spatial parallelism (sp): each image is cut into bands or tiles, one for each worker; every worker has all weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ziggurat.data.batch import Part
from ziggurat.data.extents import Region
from ziggurat.parallel.spatial import SpatialMesh, SpatialTensor, spatial_mesh
from ziggurat.parallel.spatial.geometry import Range, partition, ranges
from ziggurat.parallel.spatial.tensor import band_dims
from ziggurat.strategies.base import Strategy
from ziggurat.strategies.estimate import StepCost
from ziggurat.strategies.topology import Topology


class SpatialParallel(Strategy):
    """Parts of images: of rows, or of rows and columns.

    Attributes:
        spatial: How the workers cut an image.
    """

    axis = "sp"
    meaning = "parts of images"
    inwards = 2
    takes_grid = True
    parts_of_images = True
    own_pace = True
    goes_with_rows = True
    parts_of_gradients = True

    spatial: SpatialMesh

    def __init__(self, topology: Topology, degrees: tuple[int, ...]) -> None:
        super().__init__(topology, degrees)
        self.spatial = spatial_mesh(self.workers, degrees)

    @classmethod
    def estimate(cls, cost: StepCost, size: int) -> StepCost:
        """Each microbatch is shared, and the parts of its gradient are summed."""
        return cost.sum_gradients(size).share_computation(size)

    def part(self, extent: tuple[int, ...]) -> Part:
        """Return the part of images of an extent that is this worker's."""
        has: list[Range] = [(0, size) for size in extent]
        own: list[Range] = list(has)
        for number, axis in enumerate(self.spatial.axes):
            size = extent[axis.place]
            own[axis.place] = ranges(partition(size, axis.size))[axis.rank]
            if self.spatial.is_cut(size, number):
                has[axis.place] = own[axis.place]
        return Part(extent, _region(has), _region(own))

    def spread(self, part_BCHW: Tensor, part: Part) -> Tensor:
        """Return this worker's part of images as a tensor that looks like the whole."""
        dims = band_dims((*part_BCHW.shape[:2], *part.extent), self.spatial)
        return SpatialTensor(part_BCHW, dims, self.spatial)

    def name_layers(self, model: nn.Module) -> None:
        """Let messages about a model's layers name them."""
        self.spatial.names |= {id(module): name for name, module in model.named_modules()}

    def gathers(self) -> dict[tuple[str, str], int]:
        """Return the bytes that this worker has received for each layer and operation that had to gather."""
        return dict(self.spatial.gathers)

    @property
    def bytes_sent(self) -> int:
        """Bytes that this worker has sent to its neighbours, and in sums."""
        return sum((axis.traffic.bytes_sent for axis in self.spatial.axes), 0)


def _region(sides: Sequence[Range]) -> Region:
    return Region.between([first for first, _ in sides], [last for _, last in sides])
