"""What an axis of a plan is: a strategy, in one file, which says all that anyone asks of the axis.

Strategy   one axis of a mesh: its groups, its part of an image
Joined     a family of models of one form (a model and its moving average) that lie along the axis
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ziggurat.config import RunConfig
from ziggurat.data.batch import Part
from ziggurat.parallel.collectives.pieces import PartSum
from ziggurat.parallel.collectives.wire import Wire
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.trace import ImageSpec, Tracer
from ziggurat.parallel.spatial import SpatialMesh, SpatialTensor
from ziggurat.parallel.spatial.layout import local_size
from ziggurat.parallel.spatial.tensor import band_dims
from ziggurat.strategies.alone import as_alone
from ziggurat.strategies.boxes import Box
from ziggurat.strategies.costs.decisions import Decisions
from ziggurat.strategies.costs.measure import Measure, measure_calls
from ziggurat.strategies.estimate import StepCost
from ziggurat.strategies.running import Runner
from ziggurat.strategies.sums import Section, Sums
from ziggurat.strategies.topology import Topology

Compute = Callable[[], AbstractContextManager[Any]]


@dataclass
class Setting:
    """What strategies know where models are joined.

    Attributes:
        spec: Of the images of a microbatch, or of a batch of tiles, whole.
        config: Of the run.
        num_microbatches: Of a step.
        compute: A context in which the model computes: autocast.
        decisions: What was measured and fixes bits: of a run that goes on, as it was; what is decided now is added.
        cache: Where measurements are kept, so that they need not be taken again; None keeps nothing.
        measure: Measures what calls of the network cost, where that decides.
        device: Where the model computes.
        data: The workers that take other microbatches.
        spatial: How images are cut, where they are.
        is_common: Whether all workers have the same weights already, as they have them from one place.
        has_no_history: Whether the network is known to keep nothing of its own from call to call.
    """

    spec: ImageSpec
    config: RunConfig
    num_microbatches: int
    compute: Compute
    decisions: Decisions = field(default_factory=Decisions)
    cache: Path | None = None
    measure: Measure = measure_calls
    data: Workers = field(default_factory=Workers)
    spatial: SpatialMesh | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    is_common: bool = False
    has_no_history: bool = False
    _tracers: dict[nn.Module, Tracer] = field(default_factory=dict)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let a block compute the model before any step, to look at it, as on one worker."""
        with as_alone(self.device), self.compute():
            yield

    def tracer(self, model: nn.Module) -> Tracer:
        """Return the tracer of a model: made at the first call, which must come while it is whole."""
        if model not in self._tracers:
            self._tracers[model] = Tracer(model, self.device)
        return self._tracers[model]

    def blank_images(self) -> Tensor:
        """Return black images of the setting's size, as the model sees them: where they are cut, this worker's part."""
        shape, strides = self.spec.shape, self.spec.strides
        if self.spatial is None:
            whole = torch.empty_strided(shape, strides, dtype=self.spec.dtype, device=self.device).zero_()
            return whole.requires_grad_(self.spec.requires_grad)
        dims = band_dims(shape, self.spatial)
        sizes = [local_size(dim, self.spatial.ranks) for dim in dims]
        local = torch.zeros(sizes, dtype=self.spec.dtype, device=self.device)
        return SpatialTensor(local.requires_grad_(self.spec.requires_grad), dims, self.spatial)


class Joined:
    """Models of one form along an axis; by default every worker has them whole.

    Made while the model is whole, by all workers together.

    Attributes:
        loss_place: The place along the axis where the loss is computed; None if on all of its workers.
    """

    loss_place: int | None = None

    def prepare(self, model: nn.Module) -> None:
        """Look at a model of the form while it is whole, before any axis places anything."""

    def place(self, model: nn.Module) -> None:
        """Leave of a model of the form, in place, what is this worker's."""

    def narrow(self, name: str, box: Box, tensor: Tensor) -> Box | None:
        """Return what this worker holds of a tensor's box, as far as it is this axis that decides; None for nothing.

        Args:
            name: Of a parameter or buffer.
            box: What the axes placed before have left.
            tensor: As it is now, placed.
        """
        return box

    def runner(self, model: nn.Module) -> Runner | None:
        """Return what runs microbatches through a placed model; None where the axis runs them like one worker."""
        return None

    def sections(self, model: nn.Module) -> list[Section] | None:
        """Return the parts of a placed model whose gradients and statistics come apart; None for the model as one."""
        return None

    def sums(
        self, sections: Sequence[Section], data: Workers, parts: PartSum | None, wire: Wire
    ) -> Sums | None:
        """Return what sums gradients and statistics over microbatches; None for the canonical sums."""
        return None

    def settle(self, gradients: dict[str, Tensor], needed: Callable[[str], Tensor]) -> None:
        """Add up, or agree on, what the workers of the axis have of the gradients of the global batch, in place.

        Args:
            gradients: By the parameter's name, those that this worker has.
            needed: Makes zeros like a parameter that this worker has not.
        """

    def parts_gradient(self, name: str) -> bool:
        """Whether what has the parameter of a name (workers, or stages) leaves parts of its gradient of a microbatch."""
        return False

    def describe(self) -> list[str]:
        """Return lines on how the model is spread."""
        return []

    def facts(self) -> dict[str, Any]:
        """Return what `ziggurat verify` says of it, ready for JSON."""
        return {}

    @property
    def bytes_sent(self) -> int:
        """Bytes that this worker has sent over the axis while models ran."""
        return 0


class Strategy(ABC):
    """One axis of a mesh.

    Attributes:
        axis: Its name.
        meaning: What it spreads, in a few words.
        inwards: Its place in the order of ranks: neighbours along the axis with the largest number have neighbouring ranks.
        takes_grid: Whether its degree may have a second number: ``2x2``.
        spreads_samples: Whether its workers take other microbatches.
        wants_microbatches: Whether each of its workers is idle without a microbatch of its own.
        parts_of_images: Whether its workers have parts of each image, of its loss, and of its gradient.
        parts_of_gradients: Whether its workers have parts of each microbatch's gradient.
        takes_turns: Whether its workers compute parts of the network one after the other, several microbatches at a time.
        frees_storage: Whether memory of tensors that live on is freed while a model runs.
        needs_branches: Whether it spreads only networks that compute several things side by side.
        replicates_state: Whether its workers have the same state of a run, each as much of it as it would have alone.
        goes_with_rows: Whether each of its workers has whole weights, of which others along dp may update the rows.
        takes_replicas: Whether the replicas of a run by local SGD may be spread over its workers.
        rounds_gradients: Whether gradients of the samples that its workers take are added up in the canonical sum, whose nodes are
            rounded to what travels.
        own_pace: Whether each of its workers computes by itself, and what it waits for others in is counted by `Workers`.
        settings: What a config says of it and of no other axis, by dotted names.
        variants: Settings of it that a planner tries, each with its values; they change no result but for rounding.
        savers: Settings of it with the value that takes less memory, and as much time or more: a planner tries them where a plan
            takes too much; they change no result but for rounding.
        home: Where a whole model lies until it is spread; None for the worker's device.
        spatial: How it cuts images; None if it does not.

    Args:
        topology: All workers.
        degrees: Of this axis.
    """

    axis: ClassVar[str]
    meaning: ClassVar[str]
    inwards: ClassVar[int]
    takes_grid: ClassVar[bool] = False
    spreads_samples: ClassVar[bool] = False
    wants_microbatches: ClassVar[bool] = False
    parts_of_images: ClassVar[bool] = False
    parts_of_gradients: ClassVar[bool] = False
    takes_turns: ClassVar[bool] = False
    frees_storage: ClassVar[bool] = False
    needs_branches: ClassVar[bool] = False
    replicates_state: ClassVar[bool] = False
    goes_with_rows: ClassVar[bool] = False
    takes_replicas: ClassVar[bool] = False
    rounds_gradients: ClassVar[bool] = True
    own_pace: ClassVar[bool] = False
    settings: ClassVar[tuple[str, ...]] = ()
    variants: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    savers: ClassVar[Mapping[str, Any]] = {}
    home: ClassVar[str | None] = None
    spatial: Any = None  # a SpatialMesh, or None

    def __init__(self, topology: Topology, degrees: tuple[int, ...]) -> None:
        self.topology, self.degrees = topology, degrees
        self.workers = topology.along(self.axis)

    @classmethod
    def faults(cls, sizes: Mapping[str, int], text: str) -> list[str]:
        """Return why the axis does not go with others of a plan.

        Args:
            sizes: Workers along each axis of the plan that has more than one.
            text: The plan, as the user wrote it.
        """
        return []

    @classmethod
    @abstractmethod
    def estimate(cls, cost: StepCost, size: int) -> StepCost:
        """Return roughly what a step costs a worker once the axis spreads it.

        Args:
            cost: Without the axis.
            size: Workers along it.
        """

    def part(self, extent: tuple[int, ...]) -> Part | None:
        """Return the part of images of an extent that is this worker's; None where it has them whole."""
        return None

    def spread(self, part_BCHW: Tensor, part: Part) -> Tensor:
        """Return this worker's part of images as a tensor that looks like the whole."""
        return part_BCHW

    def name_layers(self, model: nn.Module) -> None:
        """Let messages about a model's layers name them."""
        return

    def gathers(self) -> dict[tuple[str, str], int]:
        """Return the bytes that this worker has received for each layer and operation that had to gather."""
        return {}

    @property
    def bytes_sent(self) -> int:
        """Bytes that this worker has sent over the axis, of images and maps."""
        return 0

    def join(self, model: nn.Module, setting: Setting) -> Joined:
        """Look at a whole model, and decide how it and others of its form lie along the axis; all workers call this.

        Raises:
            UserError: On all workers: if it cannot be spread, by a property of the network that is named.
        """
        return Joined()
