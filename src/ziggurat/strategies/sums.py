"""What the microbatches of a step leave behind, summed over all of them: gradients and running statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from ziggurat.parallel.collectives.canonical import partition
from ziggurat.parallel.collectives.gradients import GradientSum
from ziggurat.parallel.collectives.pieces import PartSum
from ziggurat.parallel.collectives.running_statistics import RunningStatistics
from ziggurat.parallel.collectives.wire import FP32, Wire
from ziggurat.parallel.collectives.workers import Workers


@dataclass(frozen=True)
class Section:
    """A part of a model whose gradients and statistics come at a time of their own: a stage, or the whole model.

    Attributes:
        parameters: By name, those that this worker has.
        layers: A module that holds the layers with running statistics.
    """

    parameters: Mapping[str, nn.Parameter]
    layers: nn.Module


class Sums:
    """The canonical sums of gradients and statistics over all microbatches of a step.

    One step::

        sums.start(num_microbatches)
        with sums.watching(): ...forward                  # of this worker's microbatches
        with sums.leaf(section, index): ...backward()
        sums.take_statistics(section)
        sums.finish()                                     # {name: gradient of the global batch}
        sums.finish_statistics()

    Args:
        sections: Of the model.
        data: The workers that take other microbatches.
        parts: Adds up what workers with other parts of the same microbatches have; None where there are none.
        wire: What gradients travel as.
    """

    def __init__(
        self, sections: Sequence[Section], data: Workers, parts: PartSum | None = None, wire: Wire = FP32
    ) -> None:
        self.sections, self.data, self.wire = sections, data, wire
        self.statistics = [self.make_statistics(section.layers, data) for section in sections]
        self.gradients = [self.make_gradients(section, data, parts) for section in sections]
        self.num_microbatches, self.of_workers = 0, list[range]()

    def make_gradients(self, section: Section, data: Workers, parts: PartSum | None) -> GradientSum:
        """Return what sums the gradients of a section."""
        part = 0 if parts is None else parts.workers.rank
        return GradientSum(section.parameters.values(), data, parts=parts, wire=self.wire, part=part)

    def make_statistics(self, layers: nn.Module, data: Workers) -> RunningStatistics:
        """Return what keeps the running statistics of a section."""
        return RunningStatistics(layers, data)

    def start(
        self, num_microbatches: int, of_workers: Sequence[range] | None = None, key: tuple[int, ...] = (0, 0)
    ) -> None:
        """Begin a step.

        Args:
            num_microbatches: Of all workers.
            of_workers: The microbatches of each worker of the data axis, consecutive; by default as even as possible.
            key: Of the run and the step, for what the wire leaves to chance.
        """
        self.num_microbatches = num_microbatches
        self.of_workers = list(of_workers or partition(num_microbatches, self.data.size))
        for gradients in self.gradients:
            gradients.start(num_microbatches, self.of_workers, key)
        for statistics in self.statistics:
            statistics.start()

    @contextmanager
    def leaf(self, section: int, index: int) -> Iterator[None]:
        """Take the gradient of backward of a section and microbatch, run inside."""
        with self.gradients[section].leaf(index):
            yield

    def take_present(self, section: int, index: int) -> None:
        """Take what several backward passes have left in every ``parameter.grad`` as the gradient of a microbatch."""
        self.gradients[section].take_present(index)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Let norms leave their statistics here while a block runs, in which is forward and backward."""
        with ExitStack() as watched:
            for statistics in self.statistics:
                watched.enter_context(statistics.watching())
            yield

    def forget_statistics(self) -> None:
        """Forget the statistics of passes that count for nothing."""
        for statistics in self.statistics:
            statistics.forget()

    def take_statistics(self, section: int) -> None:
        """Take the statistics that forward of a section and microbatch has left."""
        self.statistics[section].take_leaf()

    def finish(self) -> dict[str, Tensor]:
        """Return the gradient of each parameter that this worker has, of the global batch.

        Communication:
            The canonical sum over the data axis; within it, of this worker's slices, the sum over workers with other parts, see
            `GradientSum` and `PartSum`.
        """
        totals: dict[str, Tensor] = {}
        for section, gradients in reversed(list(zip(self.sections, self.gradients, strict=True))):
            gradients.finish()
            for name, parameter in section.parameters.items():
                if parameter.requires_grad:
                    assert parameter.grad is not None
                    totals[name] = totals[name] + parameter.grad if name in totals else parameter.grad
        return totals

    def assign(self, gradients: Mapping[str, Tensor]) -> None:
        """Set every ``parameter.grad`` of the sections."""
        for section in self.sections:
            for name, parameter in section.parameters.items():
                parameter.grad = gradients.get(name)

    def share(self) -> None:
        """Give all workers what the optimizer has changed on this one alone: nothing, where each changes all."""

    def finish_statistics(self) -> None:
        """Combine the running statistics of all microbatches, in canonical order."""
        for statistics in reversed(self.statistics):
            statistics.finish(self.num_microbatches, self.of_workers)

    def abandon(self) -> None:
        """Go back to the running statistics from before the step."""
        for statistics in self.statistics:
            statistics.abandon()

    def close(self) -> None:
        """Remove the hooks from the parameters."""
        for gradients in self.gradients:
            gradients.close()
