"""Running microbatches through a model that is spread over workers: forward and backward, or forward alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ziggurat.parallel.pipeline.timing import Trace
from ziggurat.parallel.spatial import SpatialTensor
from ziggurat.parallel.spatial.tensor import memory_refused
from ziggurat.strategies.keeping import join_buffers
from ziggurat.strategies.sums import Sums

T = TypeVar("T")


@dataclass(frozen=True)
class Microbatches:
    """The microbatches of a place of the data axis in one pass, counted from 0.

    Attributes:
        count: How many there are.
        images: Makes those of a microbatch, as the model sees them.
        finish: From the model's outputs and the microbatch to what the pass is for: the terms of the loss, sums, predictions.
        compute: A context in which the model computes: autocast.
        seed: Keys what is random in a microbatch.
        announce: Says that ``forward`` or ``backward`` of a microbatch begins.
    """

    count: int
    images: Callable[[int], Tensor]
    finish: Callable[[Any, int], Any]
    compute: Callable[[], AbstractContextManager[Any]]
    seed: Callable[[int], None] = lambda index: None
    announce: Callable[[str, int], None] = lambda name, index: None

    def forward(self, model: nn.Module, index: int) -> Any:
        """Return a model's outputs for a microbatch."""
        self.seed(index)
        images = self.images(index)
        with self.compute(), memory_refused(images):
            outputs = model(images)
        if isinstance(images, SpatialTensor):
            join_buffers(model, images.mesh)
        return outputs


class Runner(ABC):
    """Runs microbatches through one placed model.

    Attributes:
        at_once: Batches that keep all workers of the network busy in `infer`: so many are given to it together.
        looks_at_each: Whether this worker can compute a microbatch's gradient by itself, to look at it.
    """

    at_once = 1
    looks_at_each = True

    @abstractmethod
    def train(self, work: Microbatches, mine: Sequence[int], sums: Sums) -> list[Tensor]:
        """Run forward and backward.

        Args:
            work: Its ``finish`` returns the terms of the loss, whose sum is differentiated.
            mine: The number of each of these microbatches in the step.
            sums: Take what each microbatch leaves behind.

        Returns:
            The terms of each microbatch, float64, on every worker that computes a part of it.
        """

    @abstractmethod
    def infer(self, work: Microbatches) -> list[Any]:
        """Run forward alone; returns what ``work.finish`` makes of each microbatch, on every worker that computes a part of it."""

    def inference(self) -> AbstractContextManager[Any]:
        """Return the context in which `infer` is called: not inference mode, where what is kept of a run meets autograd later."""
        return torch.no_grad()

    def keep_company(self, runs: int, images: Callable[[], Tensor], compute: Callable[[], Any]) -> None:
        """Take part in the runs of other workers that have more microbatches, where the workers run a model together.

        Args:
            runs: How many more than this worker has.
            images: Makes images of their size.
            compute: A context in which the model computes.
        """
        return

    def end_inference(self) -> None:
        """Forget what runs without backward have left."""
        return

    def trace_to(self, trace: Trace | None) -> None:
        """Note in a trace what this worker does, where workers take turns; in none at all."""
        return


class WholeRunner(Runner):
    """Runs one microbatch after the other, each with all layers on this worker."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def inference(self) -> AbstractContextManager[Any]:
        """Return the context in which `infer` is called."""
        return torch.inference_mode()

    def train(self, work: Microbatches, mine: Sequence[int], sums: Sums) -> list[Tensor]:
        """Run forward and backward of each microbatch."""
        losses = []
        for place, index in enumerate(mine):
            with sums.leaf(0, index):
                work.announce("forward", place)
                terms = work.finish(work.forward(self.model, place), place)
                work.announce("backward", place)
                terms.sum().backward()
            sums.take_statistics(0)
            losses.append(terms.detach().double())
        return losses

    def infer(self, work: Microbatches) -> list[Any]:
        """Run forward of each microbatch."""
        return [work.finish(work.forward(self.model, place), place) for place in range(work.count)]


def first_bad_of_each(model: nn.Module, mine: Sequence[int], work: Microbatches) -> dict[int, list[str]]:
    """Compute microbatches once more, on this worker, and look at the gradient of each.

    Args:
        model: With all its layers; ``parameter.grad`` is left alone.
        mine: The number of each microbatch in the step.
        work: The pass.

    Returns:
        Of each microbatch with a gradient that is not finite the names of such parameters, in the model's order.
    """
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    found = {}
    for place, index in enumerate(mine):
        loss = work.finish(work.forward(model, place), place).sum()
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        bad = [n for n, g in zip(named, gradients, strict=True) if g is not None and not g.isfinite().all()]
        if bad:
            found[index] = bad
    return found
