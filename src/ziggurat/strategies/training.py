"""What the training loop asks of a plan: one step over the workers, and the state that it leaves.

    DataTraining       dp, sp     every worker has all weights
    LevelTraining      lp         likewise
    PipelineTraining   pp         each worker has those of its stages
    TensorTraining     tp         each worker has a part of wide layers, and all of the others
    ShardedTraining    fsdp, sp   each worker has some rows of every weight

`plans.joining` chooses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from ziggurat.strategies.leaves import Leaves


@dataclass(frozen=True)
class PassWork:
    """One pass of a step over the microbatches of a place of the dp axis, which are counted from 0.

    Attributes:
        count: Microbatches of this place.
        images: Makes those of a microbatch, as the model sees them.
        seed: Keys what is random in a microbatch.
        vector: From the model's outputs and the microbatch to what the pass is for: the terms of the loss, or sums.
        announce: Says that ``forward`` or ``backward`` of a microbatch begins.
        compute: A context in which the model computes: autocast.
    """

    count: int
    images: Callable[[int], Tensor]
    seed: Callable[[int], None]
    vector: Callable[[Any, int], Tensor]
    announce: Callable[[str, int], None]
    compute: Callable[[], AbstractContextManager[Any]]

    def forward(self, model: nn.Module, index: int) -> Any:
        """Return a model's outputs for a microbatch."""
        self.seed(index)
        images = self.images(index)
        with self.compute():
            return model(images)


class Whole(NamedTuple):
    """A training state with nothing left out.

    Attributes:
        model: The weights.
        average: Their moving average; the model itself where nothing is averaged.
        optimizer: Of the model's parameters.
    """

    model: Any
    average: Any
    optimizer: torch.optim.Optimizer


class Training(Leaves, ABC):
    """A run's model, joined to the workers of its plan.

    One step, of `num_leaves` microbatches::

        training.start(num_leaves)
        losses = training.loss_leaves(work)      # forward and backward
        training.finish_gradients()              # parameter.grad: the sum over all microbatches
        training.clip(max_norm, training.gradient_norm())
        training.finish_statistics()             # running statistics of batch norm: in canonical order

    Attributes:
        model: The model, as this worker has it.
        state: Model, average and optimizer, as this worker has them.
        survives: Whether each worker of the dp axis has the whole state, and can hand it over when others are lost.
        looks_at_each: Whether `bad_gradients` looks at the gradient of each microbatch.
    """

    model: nn.Module
    state: Whole
    survives = True
    looks_at_each = False

    @abstractmethod
    def start(self, num_leaves: int) -> None:
        """Begin a step."""

    @abstractmethod
    def loss_leaves(self, work: PassWork) -> list[Tensor]:
        """Run forward and backward of this place's microbatches.

        Returns:
            The vector of each microbatch, float64, on every worker that computes a part of the microbatch.
        """

    @abstractmethod
    def output_leaves(self, work: PassWork) -> list[Tensor]:
        """Run forward alone; returns the vector of each microbatch as `loss_leaves` does."""

    @abstractmethod
    def finish_gradients(self) -> None:
        """Set every ``parameter.grad`` of this worker to that of the global batch."""

    @abstractmethod
    def gradient_norm(self) -> Tensor:
        """Return the norm of the gradient of the whole model, the same on every worker."""

    def clip(self, max_norm: float, norm: Tensor) -> None:
        """Scale the gradient so that its norm, which is given, is at most `max_norm`."""
        clip_grads_with_norm_(self.model.parameters(), max_norm, norm)

    @abstractmethod
    def finish_statistics(self) -> None:
        """Combine the running statistics of all microbatches."""

    @abstractmethod
    def abandon(self) -> None:
        """Undo what a step that failed has done to the running statistics."""

    def bad_gradients(self, work: PassWork) -> dict[int, str]:
        """Return the first parameter of each of this worker's microbatches whose gradient is not finite.

        The microbatches are computed once more, where the plan can (`looks_at_each`).
        """
        return {}

    @abstractmethod
    def bad_gradient(self) -> str:
        """Return the first parameter whose gradient of the global batch is not finite; or nothing."""

    @abstractmethod
    def workers_of_loss(self, place: int) -> range:
        """Return the workers that compute the loss for a place of the dp axis."""

    def describe(self) -> list[str]:
        """Return lines on how the model is spread over workers."""
        return []

    def whole(self) -> Whole | None:
        """Return the whole training state; on all workers but the first perhaps None. All workers call this."""
        return self.state

    def to_write(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what this worker writes of a checkpoint: whole tensors; of one name the first worker's. All workers call this.

        Args:
            state: Weights, average and moments as this worker has them: ``model.NAME``, ``average.NAME`` and
                ``optimizer.PARAMETER.SLOT``.
        """
        return state

    @abstractmethod
    def close(self) -> None:
        """Remove the hooks from the model."""


def bad_gradients_of_each(model: nn.Module, mine: range, work: PassWork) -> dict[int, str]:
    """Compute microbatches once more, on this worker, and look at the gradient of each.

    Args:
        model: With all its weights; ``parameter.grad`` is left alone.
        mine: The microbatches of `work`.
        work: The pass.

    Returns:
        Of each microbatch whose gradient is not finite the first such parameter.
    """
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    found = {}
    for place, index in enumerate(mine):
        loss = work.vector(work.forward(model, place), place).sum()
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        name = first_not_finite(zip(named, gradients, strict=True))
        if name:
            found[index] = name
    return found


def first_not_finite(gradients: Iterable[tuple[str, Tensor | None]]) -> str:
    """Return the name of the first gradient that is not finite; nothing if there is none."""
    return next((name for name, value in gradients if value is not None and not value.isfinite().all()), "")


def losses_one_by_one(
    model: nn.Module,
    mine: Sequence[int],
    leaf: Callable[[int], AbstractContextManager[None]],
    work: PassWork,
) -> list[Tensor]:
    """Run forward and backward of one microbatch after the other, each with all layers on this worker.

    Args:
        model: Is run.
        mine: The numbers of this worker's microbatches in the step.
        leaf: A context that takes what forward and backward of a microbatch leave behind.
        work: Of these microbatches, counted from 0.

    Returns:
        The vector of each microbatch, float64.
    """
    losses = []
    for place, index in enumerate(mine):
        with leaf(index):
            work.announce("forward", place)
            shares = work.vector(work.forward(model, place), place)
            work.announce("backward", place)
            shares.sum().backward()
        losses.append(shares.detach().double())
    return losses
