"""One step of a run by local SGD: each replica takes a step of its own, on its own microbatches; some steps end with an outer step.

A replica's step is the plain step (`ziggurat.training.step`) of a run on one worker, whose global batch are the replica's microbatches:
loss and gradient are divided by what these hold, summed up in the canonical tree over them, and clipped by their own norm::

    1 compute    each of this worker's replicas, one after the other: gradient, running statistics, terms of the loss
    2 agree      the terms and norms of all replicas are gathered: some hundred bytes, in which all workers see whether all is finite
    3 change     each replica's optimizer changes its own weights; or nothing is changed, of no replica
    4 outer      every ``sync_every`` steps all replicas are joined, see `ziggurat.strategies.replicas`
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ziggurat.errors import UserError
from ziggurat.parallel.collectives.canonical import partition
from ziggurat.parallel.runtime.heartbeat import phase
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.replicas import Replicas
from ziggurat.strategies.state import Model
from ziggurat.training.step import Computed, Feed, Loss, Step, StepResult, guarded

M = TypeVar("M")  # a microbatch


class _Pending(NamedTuple):
    """What a replica has computed, and not changed yet.

    Attributes:
        replica: Its number.
        computed: Of its step.
        gradients: By the parameter's name.
        statistics: Its running statistics from before the step, by name.
        bad: The first bad parameter of each of its microbatches, by their number in the whole step, and of their sum.
    """

    replica: int
    computed: Computed
    gradients: dict[str, Tensor]
    statistics: dict[str, Tensor]
    bad: tuple[dict[int, str], str]


class LocalStep(Generic[M, Model]):
    """The step of a run by local SGD.

    Args:
        parallel: The run's state, with its replicas, on the workers of its plan.
        task: Knows the loss.
        feed: Makes the model's input of a microbatch.
        clip_norm: Largest norm of a replica's gradient; 0 does not clip.
        num_steps: Of the whole run: after the last one follows an outer step.

    Raises:
        UserError: If the loss depends on what it sums up over all microbatches of earlier steps.
    """

    def __init__(
        self, parallel: Parallel[Model], task: Loss[M], feed: Feed[M], clip_norm: float, num_steps: int
    ) -> None:
        self.parallel, self.state, self.num_steps = parallel, parallel.state, num_steps
        if len(self.state.accumulated):
            raise UserError(
                "the loss sums up numbers of all microbatches in every step, which replicas of local_sgd.replicas do not know: take "
                "another loss, or leave local_sgd out"
            )
        workers = parallel.mesh.workers
        alone = make_mesh(workers.subgroup([workers.rank]))
        # this worker by itself, with the same tensors: a replica's step is that of one worker
        self.alone = Parallel(self.state, alone, dataclasses.replace(parallel.setting))
        self.alone.pace = parallel.pace
        self.step = Step(self.alone, task, feed, clip_norm)

    @property
    def replicas(self) -> Replicas:
        """Those of the run."""
        assert self.state.replicas is not None
        return self.state.replicas

    def __call__(self, batches: Sequence[M], num_microbatches: int) -> StepResult:
        """Take one step; all workers call this.

        Args:
            batches: The microbatches of this worker's replicas, in order.
            num_microbatches: Of the step, over all replicas. Where there are fewer than replicas (the last batch of an epoch may be
                small), the last replicas take no step.

        Returns:
            Terms of the loss whose sum is the mean of the replicas' losses, and the mean norm of their gradients.

        Raises:
            UserError: If an operation has no deterministic form on the device.

        Communication:
            One all-gather of the terms and a norm for each microbatch; that of the outer step, where one is due.
        """
        with guarded():
            return self._take(batches, num_microbatches)

    def _take(self, batches: Sequence[M], num_microbatches: int) -> StepResult:
        parallel, replicas = self.parallel, self.replicas
        parallel.count(num_microbatches)
        parts = partition(num_microbatches, replicas.config.replicas)
        pending, first = [], parallel.mine.start
        for number in replicas.mine:
            if part := parts[number]:
                mine = batches[part.start - first : part.stop - first]
                pending.append(self._compute(number, mine, part))
        terms, norms = self._gather(pending)
        active = sum(map(bool, parts))
        starts = [part.start for part in parts if part]
        terms, norm = terms / active, norms[starts].sum() / active
        parallel.mesh.workers.confirm()
        if not (terms.isfinite().all() and norms.isfinite().all()):
            return self._refuse(pending, terms, norm)
        phase("optimizer", self.state.step)
        self.state.condition = "changing"
        for one in pending:
            self._change(one)
        done, every = self.state.step + 1, replicas.config.sync_every
        if replicas.is_due(done, self.num_steps):
            phase("exchange", self.state.step)
            with parallel.pace.summing():
                replicas.outer_step(parallel.sums.gradients[0])
            self.state.update_average(done % every or every)
        return StepResult(terms, norm, finite=True)

    def _compute(self, number: int, batches: Sequence[M], part: range) -> _Pending:
        alone, replicas = self.alone, self.replicas
        with replicas.in_place(number):
            before = {
                name: one.clone() for name, one in replicas.owned.items() if name not in replicas.parameters
            }
            computed = self.step.compute(batches, len(part))
            bad: tuple[dict[int, str], str] = ({}, "")
            if computed.is_finite:
                alone.finish_statistics()  # undone where another replica's numbers are not finite
            else:
                each, of_sum = self.step.find_bad(computed)
                bad = {part.start + index: name for index, name in each.items()}, of_sum
                alone.abandon()
            gradients = alone.gradients()
            alone.sums.assign({})
        return _Pending(number, computed, gradients, before, bad)

    def _change(self, one: _Pending) -> None:
        alone = self.alone
        with self.replicas.in_place(one.replica):
            alone.sums.assign(one.gradients)
            if self.step.clip_norm:
                alone.clip(self.step.clip_norm, one.computed.norm)
            alone.update()
            alone.sums.assign({})

    def _gather(self, pending: Sequence[_Pending]) -> tuple[Tensor, Tensor]:
        """Return the terms of each microbatch, and for each the norm of its replica's gradient, from all workers."""
        rows = [
            torch.cat([terms, one.computed.norm.to(terms).reshape(1)])
            for one in pending
            for terms in one.computed.terms
        ]
        found = self.parallel.gather(rows, len(self.step.task.term_names) + 1)
        return found[:, :-1], found[:, -1]

    def _refuse(self, pending: Sequence[_Pending], terms: Tensor, norm: Tensor) -> StepResult:
        """Change nothing of any replica, and find what is not finite."""
        for one in pending:
            for name, value in one.statistics.items():
                self.replicas.held[one.replica].tensors[name].copy_(value)
        found = self.parallel.mesh.workers.gather([one.bad for one in pending])
        each = {index: name for of_worker in found for bad, _ in of_worker for index, name in bad.items()}
        of_sums = [name for of_worker in found for _, name in of_worker if name]
        look = bool(terms.isfinite().all())
        return StepResult(
            terms, norm, False, each if look else {}, of_sums[0] if look and of_sums and not each else ""
        )
