"""The mesh: all workers of a run, arranged along the axes of its plan; it owns the process groups of these axes.

    dp=2, sp=2            sp 0      sp 1
                 dp 0   worker 0  worker 1      share the images of the first half of the microbatches
                 dp 1   worker 2  worker 3      share those of the second half

Neighbours along sp have neighbouring ranks, as they exchange the most; pp or lp lies between dp and sp:

    dp=2, pp=2, sp=2      worker = (dp * 2 + pp) * 2 + sp
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from ziggurat.data.batch import Part
from ziggurat.data.tiles import Tile
from ziggurat.parallel.branches.branches import Branches
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.pipeline.pipeline import Pipeline
from ziggurat.parallel.spatial import SpatialMesh, SpatialTensor, spatial_mesh
from ziggurat.parallel.spatial.geometry import Range, partition, ranges
from ziggurat.parallel.spatial.tensor import band_dims
from ziggurat.strategies.plan import Plan, parse_plan


@dataclass(frozen=True)
class Mesh:
    """This worker's view of all workers.

    Attributes:
        workers: All of them; what is made from them lives as long as the mesh.
        dp: Those that have the same part of other images (the fsdp axis, where a plan has one).
        sp: Those that have other parts of the same images.
        spatial: How the latter cut an image; None where each worker has whole images.
        pp: Those that have other parts of the network, for the same part of the same images.
        tp: Those that have other parts of wide layers, for the same images.
        pipelines: Of the models that are cut into stages, or branches.
        lp: Those that compute other branches of the network, for the same part of the same images.
        sharing: Those that compute the same images with the same weights: of lp and sp.
        is_sharded: Whether the weights are spread over all workers (fsdp).
    """

    workers: Workers
    dp: Workers
    sp: Workers
    spatial: SpatialMesh | None = None
    pp: Workers = field(default_factory=Workers)
    tp: Workers = field(default_factory=Workers)
    pipelines: dict[nn.Module, Pipeline | Branches] = field(default_factory=dict)
    lp: Workers = field(default_factory=Workers)
    sharing: Workers = field(default_factory=Workers)
    is_sharded: bool = False

    @property
    def network(self) -> Workers:
        """Those that compute other parts of the network for the same part of the same images: of pp or lp."""
        return self.lp if self.lp.size > 1 else self.pp

    @property
    def home(self) -> torch.device:
        """Where a whole model lies until it is spread over workers: under fsdp it need not fit a device."""
        return torch.device("cpu") if self.is_sharded else self.workers.device

    @property
    def turn(self) -> tuple[int, int]:
        """This worker's number among those that see the same images, by parts or whole, and how many these are."""
        count = self.workers.size // self.dp.size
        return self.workers.rank % count, count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:  # else another worker may not come; the end of the world's group ends these
            self.close()

    def close(self) -> None:
        """Destroy the process groups of the axes, and what else was made from the mesh's workers.

        All workers call this at the same place, when none of them uses the mesh any more.

        Communication: a barrier.
        """
        self.workers.close()

    def name_layers(self, model: nn.Module) -> None:
        """Let messages about a model's layers name them."""
        if self.spatial is not None:
            self.spatial.names |= {id(module): name for name, module in model.named_modules()}

    def part(self, height: int, width: int) -> Part | None:
        """Return the part of images of a size that is this worker's; None where it has them whole."""
        if self.spatial is None:
            return None
        has, own = [(0, height), (0, width)], [(0, height), (0, width)]
        for number, axis in enumerate(self.spatial.axes):
            extent = (height, width)[axis.place]
            own[axis.place] = ranges(partition(extent, axis.size))[axis.rank]
            if self.spatial.is_cut(extent, number):
                has[axis.place] = own[axis.place]
        return Part(height, width, _tile(*has), _tile(*own))

    def spread(self, part_BCHW: Tensor, part: Part | None) -> Tensor:
        """Return this worker's part of images as a tensor that looks like the whole.

        Args:
            part_BCHW: The rows and columns of ``part.tile``.
            part: As `part` gives it; None leaves the images as they are.
        """
        if part is None or self.spatial is None:
            return part_BCHW
        dims = band_dims((*part_BCHW.shape[:2], part.height, part.width), self.spatial)
        return SpatialTensor(part_BCHW, dims, self.spatial)

    def gathers(self) -> list[str]:
        """Return a line for each layer whose operation needs all positions, with what this worker has received."""
        counted = self.spatial.gathers if self.spatial is not None else {}
        return [
            f"gathered over sp: {layer}, {operation}: {num_bytes / 1e6:.1f} MB"
            for (layer, operation), num_bytes in counted.items()
            if layer != "?"  # not a layer: what this program gathers of the outputs
        ]


def _tile(rows: Range, columns: Range) -> Tile:
    return Tile(rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0])


def make_mesh(workers: Workers, text: str = "") -> Mesh:
    """Arrange all workers as a plan says.

    Args:
        workers: All workers of the run.
        text: The plan, of as many workers; without one samples are spread over all of them.

    Raises:
        UserError: If the plan cannot be read.
        ValueError: If the plan has another number of workers.

    Communication:
        The workers of each new process group meet; all workers call this together.
    """
    plan = parse_plan(text) if text else Plan(dp=workers.size)
    if plan.num_workers != workers.size:
        raise ValueError(f"the plan {plan} is for {plan.num_workers} workers: got {workers.size}")
    workers = workers.scope()
    alone = Workers(device=workers.device)
    if plan.num_data == workers.size:
        return Mesh(workers, workers, alone, pp=alone, is_sharded=plan.fsdp > 1)
    if plan.tp > 1:
        first = workers.rank // plan.tp * plan.tp
        tp = workers.subgroup(range(first, first + plan.tp))
        dp = workers.subgroup(range(workers.rank % plan.tp, workers.size, plan.tp))
        return Mesh(workers, dp, alone, tp=tp)
    num_spatial, num_each = plan.num_spatial, plan.num_of_one
    first = workers.rank // num_spatial * num_spatial
    sp = workers.subgroup(range(first, first + num_spatial))
    first = workers.rank // num_each * num_each
    network = workers.subgroup(range(first + workers.rank % num_spatial, first + num_each, num_spatial))
    dp = workers.subgroup(range(workers.rank % num_each, workers.size, num_each))
    spatial = spatial_mesh(sp, plan.sp) if num_spatial > 1 else None
    if plan.lp > 1:
        sharing = workers.subgroup(range(first, first + num_each)) if num_spatial > 1 else network
        return Mesh(workers, dp, sp, spatial, pp=alone, lp=network, sharing=sharing)
    return Mesh(workers, dp, sp, spatial, network, sharing=sp, is_sharded=plan.fsdp > 1)
