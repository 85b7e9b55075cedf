"""The loss of a verified step: a random weighting of all outputs, or a model's own task on synthetic targets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ziggurat.config import RunConfig
from ziggurat.data.balance import ClassCounts
from ziggurat.data.batch import Microbatch, SampleId
from ziggurat.errors import UserError
from ziggurat.models.vision import VisionModel
from ziggurat.parallel.spatial import SpatialTensor, band_of
from ziggurat.strategies.mesh import Mesh
from ziggurat.tasks.base import Task
from ziggurat.tasks.registry import make_task
from ziggurat.training.step import Loss


@dataclasses.dataclass(frozen=True)
class Piece:
    """A microbatch of a verified step.

    Attributes:
        number: From 0.
        images: Whole, shape ``(B, C, *spatial)``.
    """

    number: int
    images: Tensor


class Objective(Loss[Piece], Protocol):
    """The loss of a verified step: what a step asks of a task, and how large the loss should be."""

    def typical_size(self, outputs: list[Tensor]) -> float:
        """Return how large a loss of such outputs is typically, where its terms may cancel; otherwise 0."""
        ...


@dataclasses.dataclass(frozen=True)
class RandomWeighting:
    """A loss for any network: the sum of all its outputs, each number with a random weight of its own.

    Attributes:
        seed: Of the weights, which depend on it, the microbatch and the outputs' shapes alone.
    """

    seed: int
    term_names: tuple[str, ...] = ("outputs",)
    normalizer_names: tuple[str, ...] = ()
    normalizers_are_parts: bool = False
    output_sum_names: tuple[str, ...] = ()

    def assign(self, batch: Piece) -> int:
        """Return the number of a microbatch."""
        return batch.number

    def normalizers(self, assignment: int) -> Tensor:
        """Return nothing: the loss is divided by what a microbatch knows itself."""
        return torch.zeros(0, dtype=torch.float64)

    def output_sums(self, outputs: Any, assignment: int) -> Tensor:
        """Return nothing: the loss is a sum over outputs."""
        return torch.zeros(0, dtype=torch.float64)

    def loss_shares(self, outputs: Any, assignment: int, totals: Tensor) -> dict[str, Tensor]:
        """Return the weighted sum of all outputs that are not integers, divided by the root of their number.

        Workers that share each image have the whole of it, and take an equal part each.
        """
        generator = torch.Generator().manual_seed(self.seed + assignment)
        terms = []
        for output in tensors_of(outputs):
            if output.is_floating_point():
                weights = torch.randn(tuple(output.shape), generator=generator, dtype=torch.float64)
                scale = max(1, weights.numel()) ** -0.5
                terms.append((output * (weights * scale).to(output.device, output.dtype)).sum())
        if not terms:
            raise UserError(
                f"the network returns {type(outputs).__name__}, in which no tensors of floating point are found: return tensors, or tuples, "
                "lists, dicts or dataclasses of them"
            )
        loss = torch.stack(terms).sum() if len(terms) > 1 else terms[0]
        return {"outputs": band_of(loss) / loss.mesh.num_workers if isinstance(loss, SpatialTensor) else loss}

    def typical_size(self, outputs: list[Tensor]) -> float:
        """Return the deviation of the loss over random weights: it may come out near 0 by chance."""
        squares = [
            float(o.detach().double().square().mean()) for o in outputs if o.is_floating_point() and o.numel()
        ]
        return math.sqrt(sum(squares))


class TaskLoss:
    """The loss that a model of ours is trained with, on targets that are drawn at random.

    Args:
        model: Says what it is for.
        shape: Of the images of all microbatches.
        pieces: The microbatches.
        config: Of the loss.
        seed: Of the targets.
        mesh: Says which pixels this worker answers for.
    """

    def __init__(
        self,
        model: VisionModel,
        shape: Sequence[int],
        pieces: Sequence[Piece],
        config: RunConfig,
        seed: int,
        mesh: Mesh,
    ) -> None:
        self.task = task = make_task(model, config)
        self.term_names, self.normalizer_names = task.term_names, task.normalizer_names
        self.normalizers_are_parts, self.output_sum_names = task.normalizers_are_parts, task.output_sum_names
        task.take_counts(unequal_counts(model.num_classes))
        self.accumulated_names = task.accumulated_names
        device = mesh.workers.device
        self.batches = [
            _draw_targets(
                task, model, (len(piece.images), *shape[1:]), piece.number, seed + piece.number, mesh
            ).to(device)
            for piece in pieces
        ]

    def assign(self, batch: Piece) -> Any:
        """Return the task's assignment of a microbatch's targets."""
        return self.task.assign(self.batches[batch.number])

    def normalizers(self, assignment: Any) -> Tensor:
        """Return those of the task."""
        return self.task.normalizers(assignment)

    def output_sums(self, outputs: Any, assignment: Any) -> Tensor:
        """Return those of the task."""
        return self.task.output_sums(outputs, assignment)

    def loss_shares(self, outputs: Any, assignment: Any, totals: Tensor) -> dict[str, Tensor]:
        """Return those of the task: this worker's part."""
        return self.task.loss_shares(outputs, assignment, totals)

    def typical_size(self, outputs: list[Tensor]) -> float:
        """Return 0: the terms are positive."""
        return 0.0


def make_objective(
    model: nn.Module, shape: Sequence[int], pieces: Sequence[Piece], config: RunConfig, seed: int, mesh: Mesh
) -> Objective:
    """Return the loss of a model's own task; of networks that are not of ours, a random weighting.

    Args: as `TaskLoss` has them.
    """
    if isinstance(model, VisionModel) and not config.model.name.startswith(("timm:", "smp:")):
        return TaskLoss(model, shape, pieces, config, seed, mesh)
    return RandomWeighting(seed)


def _draw_targets(
    task: Task[Any, Any], model: VisionModel, shape: Sequence[int], index: int, seed: int, mesh: Mesh
) -> Microbatch:
    """Return a microbatch of random targets; its images are not used."""
    count, bands, rows, columns = shape
    part = mesh.part(rows, columns)
    generator = torch.Generator().manual_seed(seed)
    targets = task.targets.draw(generator, model.num_classes, count, (rows, columns), part)
    ids = tuple(SampleId(0, number) for number in range(count))
    images = torch.zeros((count, bands, rows, columns), dtype=torch.uint8)
    return Microbatch(index, ids, images, ((rows, columns),) * count, targets, part)


def unequal_counts(num_classes: int) -> ClassCounts:
    """Return how often classes occur in training data that there are none of: each once more than the one before it."""
    labels = np.arange(num_classes).repeat(np.arange(1, num_classes + 1))  # one image for each
    images = np.arange(len(labels))
    return ClassCounts(len(labels), num_classes, "objects", images, labels, np.ones_like(labels))


def tensors_of(outputs: Any) -> Iterator[Tensor]:
    """Yield the tensors of what a network returned: a tensor, a record, or containers of such, in order."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from tensors_of(value)
    elif isinstance(outputs, (list, tuple)):
        for value in outputs:
            yield from tensors_of(value)
    elif dataclasses.is_dataclass(outputs):
        for item in dataclasses.fields(outputs):
            yield from tensors_of(getattr(outputs, item.name))
