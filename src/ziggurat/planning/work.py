"""What a worker does under a plan that is looked at: a run's own step, or its inference, on drawn targets and images of nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ziggurat.config import RunConfig
from ziggurat.data.batch import Microbatch, SampleId
from ziggurat.models.images import Normalization
from ziggurat.models.vision import VisionModel
from ziggurat.planning.events import Events
from ziggurat.strategies.mesh import Mesh
from ziggurat.tasks.registry import make_task
from ziggurat.training.feed import SampleFeed, autocast
from ziggurat.training.step import Loss
from ziggurat.verification.losses import Piece, RandomWeighting, unequal_counts

Truth = Callable[[], AbstractContextManager[Any]]


def sizes_of(num_images: int, num_microbatches: int) -> list[int]:
    """Return the images of each microbatch: equally many, but for the last.

    Example:
        >>> sizes_of(7, 4)
        [2, 2, 2, 1]
    """
    size = -(-num_images // num_microbatches)
    return [min(size, num_images - first) for first in range(0, num_images, size)]


def draw_batch(
    model: VisionModel, config: RunConfig, mesh: Mesh, shape: Sequence[int], index: int
) -> Microbatch:
    """Return a microbatch as the loader gives it to this worker, with drawn targets.

    Args:
        model: Says what is predicted.
        config: Of the run.
        mesh: Says which part of the images is this worker's.
        shape: ``(B, C, H, W)`` of the whole images.
        index: Of the microbatch.
    """
    count, bands, *extent = shape
    part = mesh.part(*extent)
    generator = torch.Generator().manual_seed(config.seed + index)
    rows, columns = extent
    targets = make_task(model, config).targets.draw(
        generator, model.num_classes, count, (rows, columns), part
    )
    size = tuple(extent) if part is None else part.tile.size
    images = torch.zeros((count, bands, *size), dtype=torch.uint8)
    ids = tuple(SampleId(0, index * count + number) for number in range(count))
    return Microbatch(index, ids, images, (tuple(extent),) * count, targets, part).to(mesh.workers.device)


class PlainFeed:
    """The feed of networks that are not of ours: float32 images, cut where images are.

    Args:
        mesh: All workers.
        config: Of the run.
    """

    def __init__(self, mesh: Mesh, config: RunConfig) -> None:
        self.mesh, self.config = mesh, config

    def images(self, batch: Piece) -> Tensor:
        """Return a microbatch's images."""
        images = batch.images
        if self.config.train.channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.mesh.cut(images)

    def seed(self, batch: Piece) -> None:
        """Let what is random depend on the microbatch."""
        torch.manual_seed(self.config.seed + batch.number)

    def announce(self, name: str, batch: Piece) -> None:
        """Say nothing."""

    def compute(self) -> torch.autocast:
        """Return a context in which the network computes: autocast."""
        return autocast(self.mesh.workers.device, self.config)


@dataclass(frozen=True)
class Work:
    """What goes into a step: microbatches, and who makes images and losses of them.

    Attributes:
        batches: Of the whole step; those of other workers are None.
        loss: See `Loss`.
        feed: See `ziggurat.training.step.Feed`.
    """

    batches: Sequence[Any]
    loss: Any
    feed: Any

    @classmethod
    def of(
        cls, model: nn.Module, config: RunConfig, mesh: Mesh, shapes: Sequence[Sequence[int]], mine: range
    ) -> Work:
        """Return the work of a training step.

        Args:
            model: Of ours, with its task; or any other, whose outputs are added up with random weights.
            config: Of the run.
            mesh: All workers.
            shapes: Of each microbatch's images.
            mine: This worker's microbatches.
        """
        loss: Any
        if isinstance(model, VisionModel):
            loss, feed = make_task(model, config), SampleFeed(model, mesh, config, lambda: 0)
            loss.take_counts(unequal_counts(model.num_classes))
            batches = [draw_batch(model, config, mesh, shapes[index], index) for index in mine]
            return cls(batches, loss, feed)
        pieces = [Piece(index, torch.rand(tuple(shapes[index]))) for index in mine]
        return cls(pieces, RandomWeighting(config.seed), PlainFeed(mesh, config))


class Marked:
    """The loss and the feed of a step, with marks among the events where they are called.

    Args:
        work: The loss and the feed.
        events: Take the marks.
        in_truth: A context for what follows from targets alone, whose numbers count.
    """

    def __init__(self, work: Work, events: Events, in_truth: Truth = nullcontext) -> None:
        self.loss, self.feed, self.events, self.in_truth = work.loss, work.feed, events, in_truth

    def __getattr__(self, name: str) -> Any:  # names of terms and normalizers: the loss's
        return getattr(self.__dict__["loss"], name)

    def images(self, batch: Any) -> Tensor:
        """Return the feed's."""
        found: Tensor = self.feed.images(batch)
        return found

    def seed(self, batch: Any) -> None:
        """Let the feed key what is random."""
        self.feed.seed(batch)

    def compute(self) -> AbstractContextManager[Any]:
        """Return the feed's context."""
        return cast(AbstractContextManager[Any], self.feed.compute())

    def announce(self, name: str, batch: Any) -> None:
        """Note that ``forward`` or ``backward`` of a microbatch begins."""
        number = batch.index if isinstance(batch, Microbatch) else batch.number
        self.events.mark(f"{name} {number}")

    def assign(self, batch: Any) -> Any:
        """Return the loss's assignment, computed in truth."""
        self.events.mark("assign")
        with self.in_truth():
            return cast(Loss[Any], self.loss).assign(batch)

    def normalizers(self, assignment: Any) -> Tensor:
        """Return the loss's, computed in truth."""
        with self.in_truth():
            return cast(Loss[Any], self.loss).normalizers(assignment)

    def loss_shares(self, outputs: Any, assignment: Any, totals: Tensor) -> dict[str, Tensor]:
        """Return the loss's."""
        self.events.mark("loss")
        return cast(Loss[Any], self.loss).loss_shares(outputs, assignment, totals)


def inference_images(model: nn.Module, config: RunConfig, mesh: Mesh, shape: Sequence[int]) -> Tensor:
    """Return a batch of tiles as a model sees it, or of an image that several workers share this worker's part."""
    last = config.train.channels_last
    if not isinstance(model, VisionModel):
        return PlainFeed(mesh, config).images(Piece(0, torch.rand(tuple(shape))))
    count, bands, *extent = shape
    part = mesh.part(*extent)
    size = tuple(extent) if part is None else part.tile.size
    images = torch.zeros((count, bands, *size), dtype=torch.uint8)
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
    return mesh.spread(Normalization.of(config.data, model)(images, [size] * count), part)


def decoding(model: nn.Module, config: RunConfig, shape: Sequence[int]) -> Callable[[Any, int], Any]:
    """Return what a prediction makes of a network's outputs for a batch: a model of ours decodes them, of any other they stay.

    Args:
        model: The network.
        config: Of the run.
        shape: Of the images of a batch.
    """
    if not isinstance(model, VisionModel):
        return lambda outputs, index: outputs
    task, sizes = make_task(model, config), [tuple(shape[2:])] * shape[0]
    return lambda outputs, index: task.decode(outputs, sizes)
