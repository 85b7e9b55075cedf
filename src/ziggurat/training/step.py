"""One training step: what `train` runs is what `verify` proves, what the benchmarks time, and what a loop of your own calls.

1 counts    what the loss is divided by, over all workers, is known before anything is computed
2 sums      what depends on the outputs of all microbatches takes a pass of its own
3 losses    forward and backward; each microbatch leaves a gradient, running statistics and terms of the loss
4 exchange  sums over all workers, in an order that does not depend on their number
5 change    clipping, optimizer, moving average; or nothing, where a number is not finite
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from ziggurat.parallel.collectives.canonical import sum_leaves
from ziggurat.parallel.graph.generators import key_others, others_as_before
from ziggurat.parallel.runtime.determinism import explain_nondeterminism
from ziggurat.parallel.runtime.heartbeat import phase
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.running import Microbatches
from ziggurat.strategies.state import Model

M = TypeVar("M")  # a microbatch
M_contra = TypeVar("M_contra", contravariant=True)


class Loss(Protocol[M_contra]):
    """What a step asks of a task: see `ziggurat.tasks.base.Task`."""

    @property
    def term_names(self) -> Sequence[str]:
        """The terms of the loss."""
        ...

    @property
    def normalizer_names(self) -> Sequence[str]:
        """What the loss is divided by."""
        ...

    @property
    def normalizers_are_parts(self) -> bool:
        """Whether workers that share an image each know a part of these."""
        ...

    @property
    def output_sum_names(self) -> Sequence[str]:
        """What is summed over the outputs of all microbatches before the loss."""
        ...

    def assign(self, batch: M_contra) -> Any:
        """Return what the outputs of a microbatch are compared with."""
        ...

    def normalizers(self, assignment: Any) -> Tensor:
        """Return a microbatch's summands of the normalizers, float64, one-dimensional."""
        ...

    def output_sums(self, outputs: Any, assignment: Any) -> Tensor:
        """Return a microbatch's summands of the sums over outputs, float64, one-dimensional."""
        ...

    def loss_shares(self, outputs: Any, assignment: Any, totals: Tensor) -> dict[str, Tensor]:
        """Return a microbatch's share of each term, which over all microbatches add up to the loss; then what it accumulates."""
        ...


class Feed(Protocol[M_contra]):
    """How microbatches go into a model."""

    def images(self, batch: M_contra) -> Tensor:
        """Return the images of a microbatch as the model sees them; where they are cut, this worker's part."""
        ...

    def seed(self, batch: M_contra) -> None:
        """Key what is random in a microbatch: PyTorch's generators; NumPy's and Python's take their keys from these."""
        ...

    def announce(self, name: str, batch: M_contra) -> None:
        """Say that ``forward`` or ``backward`` of a microbatch begins."""
        ...

    def compute(self) -> AbstractContextManager[Any]:
        """Return a context in which the model computes."""
        ...


@dataclass(frozen=True)
class StepResult:
    """What came of a step, the same on every worker.

    Attributes:
        terms: Terms of the loss of each microbatch, float64, shape ``(num_microbatches, num_terms)``.
        norm: Of the gradient, before it was clipped.
        finite: Whether all numbers are; else the step has changed nothing.
        bad_microbatches: The first parameter of each microbatch whose gradient is not finite, where one could look.
        bad_gradient: The first parameter whose gradient of the global batch is not finite.
    """

    terms: Tensor
    norm: Tensor
    finite: bool
    bad_microbatches: dict[int, str] = field(default_factory=dict)
    bad_gradient: str = ""


@dataclass(frozen=True)
class Computed:
    """What a step has computed before it changes anything, the same on every worker but for `work`.

    Attributes:
        terms: As `StepResult` has them.
        summands: What the loss accumulates, of each microbatch.
        norm: Of the gradient.
        work: The pass.
        is_finite: Whether all numbers are.
    """

    terms: Tensor
    summands: Tensor
    norm: Tensor
    work: Microbatches
    is_finite: bool


@contextmanager
def guarded() -> Iterator[None]:
    """Let a block take a step: generators are as before afterwards.

    Raises:
        UserError: If an operation has no deterministic form on the device.
    """
    try:
        with others_as_before():
            yield
    except RuntimeError as error:
        if (explained := explain_nondeterminism(error)) is None:
            raise
        raise explained from error


class Step(Generic[M, Model]):
    """The step of a run.

    Args:
        parallel: The run's state on the workers of its plan.
        task: Knows the loss.
        feed: Makes the model's input of a microbatch.
        clip_norm: Largest norm of the gradient; 0 does not clip.
    """

    def __init__(
        self, parallel: Parallel[Model], task: Loss[M], feed: Feed[M], clip_norm: float = 0.0
    ) -> None:
        self.parallel, self.task, self.feed, self.clip_norm = parallel, task, feed, clip_norm
        self.state = parallel.state
        # a loss that is no `Task` need not say that it accumulates nothing
        self.num_accumulated = len(getattr(task, "accumulated_names", ()))
        if len(self.state.accumulated) != self.num_accumulated:
            raise ValueError(
                f"the state of a run must have what its loss accumulates, {self.num_accumulated} numbers: got "
                f"{len(self.state.accumulated)}"
            )

    def __call__(self, batches: Sequence[M], num_microbatches: int) -> StepResult:
        """Take one step; all workers call this.

        Args:
            batches: This worker's microbatches, or those of its place on the data axis (`Parallel.mine`), in order.
            num_microbatches: Of the step, over all workers.

        Returns:
            What came of it. `TrainState.complete` is the caller's, when all that belongs to the step is noted.

        Raises:
            UserError: If an operation has no deterministic form on the device.
        """
        with guarded():
            computed = self.compute(batches, num_microbatches)
            return self._change(computed) if computed.is_finite else self._refuse(computed)

    def compute(self, batches: Sequence[M], num_microbatches: int) -> Computed:
        """Compute the gradient of a step, on all workers; nothing is changed yet."""
        parallel, task = self.parallel, self.task
        parallel.start(num_microbatches)
        self.state.condition = "computing"

        assignments = [task.assign(batch) for batch in batches]
        counts = [task.normalizers(assignment) for assignment in assignments]
        totals = parallel.sum(counts, len(task.normalizer_names), parts=task.normalizers_are_parts)
        if task.output_sum_names:
            sums = parallel.outputs(self._pass(batches, assignments, None))
            totals = torch.cat([totals, parallel.sum(sums, len(task.output_sum_names))])
        if self.num_accumulated:
            totals = torch.cat([totals, self.state.accumulated.to(totals.device)])
        work = self._pass(batches, assignments, totals)
        losses = parallel.losses(work)

        phase("exchange", self.state.step)
        parallel.finish_gradients()
        num_terms = len(task.term_names)
        found = parallel.gather(losses, num_terms + self.num_accumulated)
        norm = parallel.norm()
        parallel.mesh.workers.confirm()  # on a GPU a lost worker's part is read as any number
        is_finite = bool(found.isfinite().all() and norm.isfinite())
        return Computed(found[:, :num_terms], found[:, num_terms:], norm, work, is_finite)

    def _change(self, computed: Computed) -> StepResult:
        parallel = self.parallel
        parallel.finish_statistics()
        phase("optimizer", self.state.step)
        parallel.mesh.workers.confirm()
        self.state.condition = "changing"
        if self.clip_norm:
            parallel.clip(self.clip_norm, computed.norm)
        parallel.update()
        self.state.update_average()
        if self.num_accumulated:
            self.state.accumulated += sum_leaves(computed.summands).to(self.state.accumulated.device)
        return StepResult(computed.terms, computed.norm, finite=True)

    def _refuse(self, computed: Computed) -> StepResult:
        """Change nothing, and find what is not finite."""
        each, bad = self.find_bad(computed)
        self.parallel.abandon()
        return StepResult(computed.terms, computed.norm, False, each, bad)

    def find_bad(self, computed: Computed) -> tuple[dict[int, str], str]:
        """Return the first bad parameter of each microbatch where one can look, else that of the global batch; all workers call this."""
        look = bool(computed.terms.isfinite().all())
        each = self.parallel.first_bad_of_each(computed.work) if look else {}
        return each, self.parallel.first_bad_gradient() if look and not each else ""

    def _pass(self, batches: Sequence[M], assignments: Sequence[Any], totals: Tensor | None) -> Microbatches:
        """Return a pass over microbatches: for the terms of the loss, or without totals for the sums over outputs."""
        task, feed = self.task, self.feed

        def finish(outputs: Any, index: int) -> Tensor:
            if totals is None:
                return task.output_sums(outputs, assignments[index])
            shares = task.loss_shares(outputs, assignments[index], totals)
            if not self.num_accumulated:
                return torch.stack(list(shares.values()))
            # what is accumulated has no gradient, so that it may travel with the terms, whose sum is differentiated
            return torch.cat([value.double().flatten() for value in shares.values()])

        def seed(index: int) -> None:
            feed.seed(batches[index])
            key_others()

        return Microbatches(
            len(batches),
            lambda index: feed.images(batches[index]),
            finish,
            feed.compute,
            seed,
            lambda name, index: feed.announce(name, batches[index]),
        )
