"""The mesh: all workers of a run, arranged along the axes of its plan, with the strategy of each axis."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from ziggurat.data.batch import Part
from ziggurat.data.extents import cut_out
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.spatial import SpatialMesh
from ziggurat.strategies.base import Strategy
from ziggurat.strategies.machines import find_tiers
from ziggurat.strategies.plan import Plan, parse_plan
from ziggurat.strategies.registry import PLACING, STRATEGIES
from ziggurat.strategies.topology import Topology
from ziggurat.system.platform import machine_name


class Mesh:
    """This worker's view of all workers.

    Args:
        workers: All of them; they call this together.
        plan: Of as many workers.
        hierarchy: How those that take other microbatches meet: see ``launch.hierarchy``.

    Attributes:
        workers: All of them; what is made from them lives as long as the mesh.
        plan: As the argument.
        strategies: Those of the axes that have more than one worker, in the order in which a model is placed.
        data: The workers that take other microbatches, with the same part of each.
        images: Those that have other parts of the same images.
        parts: Those that have other parts of the same microbatches' gradients.
        together: Those that compute the same microbatches, each a part or all of it.
        state: Those that together hold one copy of a run's state.
        spatial: How images are cut; None where each worker has them whole.

    Communication:
        The workers of each new process group meet.
    """

    def __init__(self, workers: Workers, plan: Plan, hierarchy: str = "auto") -> None:
        if plan.num_workers != workers.size:
            raise ValueError(f"the plan {plan} is for {plan.num_workers} workers: got {workers.size}")
        workers = workers.scope()
        self.workers, self.plan = workers, plan
        outermost = sorted(plan.degrees, key=lambda axis: STRATEGIES[axis].inwards)
        self.topology = Topology(workers, {axis: plan.size(axis) for axis in outermost})
        placed = sorted(plan.degrees, key=PLACING.index)
        self.strategies = [STRATEGIES[axis](self.topology, plan.degrees[axis]) for axis in placed]

        def along(is_meant: Callable[[Strategy], bool]) -> Workers:
            return self.topology.along(*(one.axis for one in self.strategies if is_meant(one)))

        self.data = along(lambda one: one.spreads_samples)
        self.data.arrange(find_tiers(self.data, hierarchy, machine_name()))
        self.together = along(lambda one: not one.spreads_samples)
        self.images = along(lambda one: one.parts_of_images)
        self.parts = along(lambda one: one.parts_of_gradients)
        self.state = along(lambda one: not one.replicates_state)
        self.spatial: SpatialMesh | None = next((o.spatial for o in self.strategies if o.spatial), None)

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

    @property
    def home(self) -> torch.device:
        """Where a whole model lies until it is spread over workers: it need not fit a device."""
        home = next((one.home for one in self.strategies if one.home), None)
        return torch.device(home) if home else self.workers.device

    @property
    def turn(self) -> tuple[int, int]:
        """This worker's number among those that see the same images, by parts or whole, and how many these are."""
        count = self.workers.size // self.data.size
        return self.workers.rank % count, count

    def workers_of(self, place: int) -> range:
        """Return the workers that compute the microbatches of a place of the data axis."""
        count = self.workers.size // self.data.size
        return range(place * count, (place + 1) * count)

    def name_layers(self, model: nn.Module) -> None:
        """Let messages about a model's layers name them."""
        for strategy in self.strategies:
            strategy.name_layers(model)

    def part(self, *extent: int) -> Part | None:
        """Return the part of images of an extent that is this worker's; None where it has them whole."""
        found = (strategy.part(extent) for strategy in self.strategies)
        return next((part for part in found if part is not None), None)

    def spread(self, part_BCHW: Tensor, part: Part | None) -> Tensor:
        """Return this worker's part of images as a tensor that looks like the whole.

        Args:
            part_BCHW: The rows and columns of ``part.tile``.
            part: As `part` gives it; None leaves the images as they are.
        """
        if part is not None:
            for strategy in self.strategies:
                part_BCHW = strategy.spread(part_BCHW, part)
        return part_BCHW

    def cut(self, images_BCHW: Tensor) -> Tensor:
        """Return this worker's part of images of which it has all, as a tensor that looks like the whole."""
        part = self.part(*images_BCHW.shape[2:])
        return images_BCHW if part is None else self.spread(cut_out(images_BCHW, part.tile), part)

    def gathers(self) -> list[str]:
        """Return a line for each layer whose operation needs all positions, with what this worker has received."""
        return [
            f"gathered over {strategy.axis}: {layer}, {operation}: {num_bytes / 1e6:.1f} MB"
            for strategy in self.strategies
            for (layer, operation), num_bytes in strategy.gathers().items()
            if layer != "?"  # not a layer: what this program gathers of the outputs
        ]


def make_mesh(workers: Workers, plan: Plan | str = "", hierarchy: str = "auto") -> Mesh:
    """Arrange all workers as a plan says.

    Args:
        workers: All workers of the run; they call this together.
        plan: Of as many workers; without one samples are spread over all of them.
        hierarchy: How those that take other microbatches meet: see ``launch.hierarchy``.

    Raises:
        UserError: If the plan cannot be read.
        ValueError: If it has another number of workers.
    """
    if not plan:
        plan = Plan(dp=workers.size)
    return Mesh(workers, parse_plan(plan) if isinstance(plan, str) else plan, hierarchy)
