"""A run's state on the workers of its plan: what a step asks of them.

One step, of `num` microbatches::

    parallel.start(num)
    terms = parallel.losses(work)          # forward and backward of this place's microbatches, parallel.mine
    parallel.finish_gradients()            # parameter.grad: of the global batch, what is this worker's
    norm = parallel.norm()
    parallel.clip(max_norm, norm)
    parallel.finish_statistics()           # running statistics, in canonical order
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Generic

import torch
from torch import Tensor

from ziggurat.errors import UserError
from ziggurat.parallel.collectives.canonical import gather_leaves, sum_leaves
from ziggurat.parallel.collectives.pieces import PartSum
from ziggurat.parallel.collectives.sent import Sent
from ziggurat.parallel.collectives.wire import WIRES
from ziggurat.parallel.graph.meta import meta_copy
from ziggurat.parallel.pipeline.timing import Trace, noted
from ziggurat.parallel.runtime.allocator import give_back_freed_memory
from ziggurat.strategies.alone import as_alone
from ziggurat.strategies.base import Setting
from ziggurat.strategies.executor import Executor
from ziggurat.strategies.first_gradient import FirstGradient
from ziggurat.strategies.hooks import HookRules
from ziggurat.strategies.keeping import refuse_own_history
from ziggurat.strategies.layout import Chunk
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.pace import Pace
from ziggurat.strategies.placing import Placed, bind, join
from ziggurat.strategies.replicas import MOMENTUM, PREFIX
from ziggurat.strategies.rows import OptimizerRows, RowSums, sharding_fault
from ziggurat.strategies.running import Microbatches, first_bad_of_each
from ziggurat.strategies.shares import SETTING, Shares
from ziggurat.strategies.state import ACCUMULATED, Model, TrainState, owner_of
from ziggurat.strategies.sums import Section, Sums
from ziggurat.strategies.whole import fill_states, local
from ziggurat.strategies.wires import wire_fault
from ziggurat.torch_internals.tensors import scale_each_


class Parallel(Generic[Model]):
    """A run's state, joined to the workers of a mesh.

    Args:
        state: Whole, as one worker makes or resumes it; its weights are made those of the first worker, if they are not yet
            (``setting.is_common``). What is others' is dropped.
        mesh: All workers; they call this together.
        setting: Of the run.

    Attributes:
        state: As this worker has it.
        layout: Where parameters and buffers lie.
        moments: Where gradients lie, and what the optimizer keeps of each parameter.
        trained: What the optimizer changes, by the parameter's name: the parameter, or this worker's rows of it.
        shares: How many microbatches each place of the data axis takes; between two steps they may be others, the same on all workers.
        num_microbatches: Of the step.
        pace: What the time of this worker's steps goes into, where that is measured.

    Raises:
        UserError: On all workers, if the network cannot be spread so.

    Placement:
        What each axis leaves a worker of model, average and the optimizer's moments.
    """

    def __init__(self, state: TrainState[Model], mesh: Mesh, setting: Setting) -> None:
        self.state, self.mesh, self.setting = state, mesh, setting
        for model in state.models:
            mesh.name_layers(model)
        if not setting.is_common:
            mesh.workers.broadcast(list(state.model.state_dict().values()))
        self.hooks = HookRules.of(mesh)
        self.hooks.refuse(state.model.named_parameters(), state.model.named_modules())
        joined = join(state.model, mesh, setting)
        refuse_own_history(state.model, mesh, setting)
        self._form = meta_copy(state.average) if mesh.workers.is_first and mesh.state.size > 1 else None
        before = dict(state.model.named_parameters())
        self.placed = Placed(state.models, mesh, joined)
        self.layout = self.placed.layout
        self.names = dict(state.model.named_parameters())
        self.layers = dict(state.model.named_modules())
        self._refuse_hooks()
        self.rows = self._shard_optimizer()
        self.trained = self.names if self.rows is None else {**self.names, **self.rows.parts}
        self.moments = self.layout if self.rows is None else self.rows.layout
        state.parts = {} if self.rows is None else self.rows.parts
        bind(state.optimizer, before, self.trained, self.moments)
        del before
        if not (self.layout.is_whole and self.moments.is_whole):
            give_back_freed_memory()  # of what other workers keep
        self.runner = self.placed.runner(state.model)
        average_runner = self.runner if len(state.models) == 1 else self.placed.runner(state.average)
        self.executor = Executor(state.average, mesh, average_runner)
        self.sums = self._make_sums()
        is_whole = self.layout.is_whole and mesh.parts.size == 1 and len(self.sums.gradients) == 1
        is_whole = is_whole and state.replicas is None  # whose sums are of other things
        self.first = FirstGradient(self.sums.gradients[0] if is_whole else None)
        self.pace = Pace(mesh.workers)
        self.shares = Shares.read(setting.config.pipeline.shares, setting.config.local_sgd.replicas)
        self.num_microbatches, self.parts = 0, [range(0)]
        self.trace: Trace | None = None

    def _shard_optimizer(self) -> OptimizerRows | None:
        """Return this worker's rows of each parameter, if it keeps the moments of these alone."""
        if not self.setting.config.pipeline.shard_optimizer:
            return None
        if (fault := sharding_fault(self.mesh.plan)) is not None:
            raise UserError(f"{fault}; leave it out")
        if self.mesh.data.size == 1:
            return None
        return OptimizerRows(self.names, self.mesh.data, WIRES[self.setting.config.pipeline.wire].block)

    def _make_sums(self) -> Sums:
        model, mesh = self.state.model, self.mesh
        of_axes = (one.sections(model) for one in self.placed.joined)
        whole = [Section(dict(model.named_parameters()), model)]
        sections = next((found for found in of_axes if found is not None), whole)
        parts = PartSum(mesh.parts) if mesh.parts.size > 1 else None
        config = self.setting.config.pipeline
        trained = (parameter.dtype for parameter in model.parameters() if parameter.requires_grad)
        if (fault := wire_fault(config.wire, mesh.plan, trained)) is not None:
            raise UserError(fault)
        wire = WIRES[config.wire]
        if self.rows is not None:
            return RowSums(sections, mesh.data, parts, self.rows, wire)
        made = (one.sums(sections, mesh.data, parts, wire) for one in self.placed.joined)
        return next((sums for sums in made if sums is not None), None) or Sums(
            sections, mesh.data, parts, wire
        )

    # -- which microbatches ---------------------------------------------------------------------------------------------

    def microbatches_of(self, num_microbatches: int, place: int | None = None) -> range:
        """Return the microbatches of a place of the data axis (this worker's by default) in a step that has so many."""
        parts = self.shares.parts(num_microbatches, self.mesh.data.size)
        return parts[self.mesh.data.rank if place is None else place]

    @property
    def mine(self) -> range:
        """The microbatches of the step that are this worker's."""
        return self.parts[self.mesh.data.rank] if self.num_microbatches else range(0)

    def workers_of(self, index: int) -> list[int]:
        """Return the workers that compute the loss of a microbatch of the step."""
        place = next(place for place, part in enumerate(self.parts) if index in part)
        axes = zip(self.mesh.strategies, self.placed.joined, strict=True)
        fixed = {axis.axis: one.loss_place for axis, one in axes if one.loss_place is not None}
        of_place = self.mesh.workers_of(place)
        return [rank for rank in self.mesh.topology.ranks(**fixed) if rank in of_place]

    # -- one step ---------------------------------------------------------------------------------------------------------

    def start(self, num_microbatches: int) -> None:
        """Begin a step."""
        self._refuse_hooks()
        self.count(num_microbatches)
        self.sums.start(num_microbatches, self.parts, (self.setting.config.seed, self.state.step))

    def count(self, num_microbatches: int) -> None:
        """Take note of how many microbatches a step has, and of whose they are."""
        self.num_microbatches = num_microbatches
        self.parts = self.shares.parts(num_microbatches, self.mesh.data.size)

    def _refuse_hooks(self) -> None:
        """Refuse hooks that would see something else than on one worker, whoever has registered them since."""

        def is_shared(name: str) -> bool:
            return any(one.parts_gradient(name) for one in self.placed.joined)

        self.hooks.refuse(self.names.items(), self.layers.items(), is_shared)

    def losses(self, work: Microbatches) -> list[Tensor]:
        """Run forward and backward of this place's microbatches.

        Returns:
            The terms of each, float64, on every worker that computes a part of it.

        Raises:
            UserError: If the network registers a hook that would see something else than on one worker.
        """
        with (
            self.pace.computing(),
            as_alone(self.mesh.workers.device),
            self.hooks.watching(),
            self.sums.watching(),
        ):
            return self.runner.train(work, self.mine, self.sums)

    def outputs(self, work: Microbatches) -> list[Tensor]:
        """Run forward alone, without gradients; running statistics are taken from the other pass.

        Returns:
            What ``work.finish`` makes of each microbatch, on every worker that computes a part of it.
        """
        with self.pace.computing(), torch.no_grad(), as_alone(self.mesh.workers.device), self.sums.watching():
            found = self.runner.infer(work)
            missing = self._most() - len(self.mine)
            self.runner.keep_company(missing, self.setting.blank_images, work.compute)
            self.runner.end_inference()
        self.sums.forget_statistics()
        return found

    def _most(self) -> int:
        return max(map(len, self.parts))

    def gather(self, mine: Sequence[Tensor], width: int, parts: bool = True) -> Tensor:
        """Return a vector of each microbatch of the step, from all workers, in order.

        Args:
            mine: Vectors of this worker's microbatches, float64, shape ``(width,)``.
            width: Length of each vector.
            parts: Whether the workers that share an image have a part of its vector each, or each the whole.

        Returns:
            Shape ``(num_microbatches, width)``, the same on every worker.

        Communication:
            One all-gather over the data axis; of parts one all-reduce over the workers that share images.
        """
        empty = torch.zeros((0, width), dtype=torch.float64, device=self.mesh.workers.device)
        if not width:
            return empty.new_zeros((self.num_microbatches, 0))
        vectors = torch.stack(list(mine)) if mine else empty
        data = self.mesh.data
        gathered = gather_leaves(vectors, self.parts, data)
        return self.mesh.images.add_up(gathered) if parts else gathered

    def sum(self, mine: Sequence[Tensor], width: int, parts: bool = True) -> Tensor:
        """Return the canonical sum of a vector of each microbatch of the step, shape ``(width,)``."""
        return sum_leaves(self.gather(mine, width, parts))

    def finish_gradients(self) -> None:
        """Set the gradient of everything that this worker's optimizer changes to that of the global batch.

        Communication:
            The sums over microbatches and parts, see `Sums`; then what each axis has to settle.
        """
        with noted(self.trace, "sum", "gradients"), self.pace.summing():
            gradients = self.sums.finish()
            for one in self.placed.joined:
                one.settle(gradients, self.names.__getitem__)
            self.sums.assign(gradients)

    def gradients(self) -> dict[str, Tensor]:
        """Return what this worker has of the gradient of each parameter, by name."""
        return {name: local(p.grad) for name, p in self.trained.items() if p.grad is not None}

    def norm(self) -> Tensor:
        """Return the norm of the gradient of the whole model, the same on every worker; see `Layout.norm`."""
        found = self.gradients()
        trained = [name for name, parameter in self.names.items() if parameter.requires_grad]
        return self.moments.norm({name: found.get(name, ()) for name in trained})

    def clip(self, max_norm: float, norm: Tensor) -> None:
        """Scale the gradient so that its norm, which is given, is at most `max_norm`."""
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # as `torch.nn.utils.clip_grads_with_norm_`
        gradients = list(self.gradients().values())
        if gradients:
            scale_each_(gradients, scale.to(gradients[0]))

    def update(self) -> None:
        """Let the optimizer change the weights, on all workers that have them.

        Communication:
            Of a sharded optimizer: every worker's rows of the weights are shared.
        """
        self.state.optimizer.step()
        self.sums.share()

    def finish_statistics(self) -> None:
        """Combine the running statistics of all microbatches."""
        self.sums.finish_statistics()

    def abandon(self) -> None:
        """Undo what a step that failed has done to the running statistics."""
        self.sums.abandon()

    # -- numbers that are not finite ----------------------------------------------------------------------------------

    @property
    def looks_at_each(self) -> bool:
        """Whether `first_bad_of_each` looks at the gradient of each microbatch."""
        return self.runner.looks_at_each

    def first_bad_of_each(self, work: Microbatches) -> dict[int, str]:
        """Return the first parameter of each microbatch whose gradient is not finite, over all workers.

        The microbatches are computed once more, where a worker can do so by itself (`looks_at_each`).
        """
        with as_alone(self.mesh.workers.device):
            mine = first_bad_of_each(self.state.model, self.mine, work) if self.looks_at_each else {}
        found: dict[int, set[str]] = {}
        for part in self.mesh.workers.gather(mine):
            for index, names in part.items():
                found.setdefault(index, set()).update(names)
        return {index: next(n for n in self.names if n in names) for index, names in found.items()}

    def first_bad_gradient(self) -> str:
        """Return the first parameter whose gradient of the global batch is not finite; or nothing."""
        return self.moments.first_bad(self.gradients())

    # -- the whole ------------------------------------------------------------------------------------------------------

    @property
    def survives(self) -> bool:
        """Whether each worker has the whole state, and can hand it over when others are lost."""
        has_all_replicas = self.state.replicas is None or self.mesh.data.size == 1
        return self.layout.is_whole and self.moments.is_whole and has_all_replicas

    @property
    def _is_first_copy(self) -> bool:
        """Whether this worker is of the first of those groups that hold a copy of the state each."""
        return self.mesh.workers.rank in self.mesh.topology.ranks(
            **{one.axis: 0 for one in self.mesh.strategies if one.replicates_state}
        )

    @property
    def _is_first_of_moments(self) -> bool:
        """Whether this worker is of the first group that holds a copy of the moments; their rows lie along the data axis."""
        places = self.mesh.topology.coordinates()
        if self.rows is None:
            return self._is_first_copy
        return not any(places[one.axis] for one in self.mesh.strategies if not one.spreads_samples)

    def chunks(self) -> dict[str, Chunk]:
        """Return what this worker writes of a checkpoint, by the names of `TrainState.tensors`: each element once over all workers."""
        found = {}
        for name, tensor in self.state.tensors().items():
            if name == ACCUMULATED:  # the same on every worker
                if self.mesh.workers.is_first:
                    found[name] = Chunk.whole(tensor)
                continue
            if name.startswith(PREFIX):  # a replica lies on one worker
                if self.mesh.workers.is_first or not name.startswith(MOMENTUM):
                    found[name] = Chunk.whole(tensor)
                continue
            owner, is_moment = owner_of(name), name.startswith("optimizer.")
            if not (self._is_first_of_moments if is_moment else self._is_first_copy):
                continue
            layout = self.moments if is_moment else self.layout
            rank = layout.workers.rank
            if is_moment and tensor.shape != local(self.trained[owner]).shape:  # a number of a parameter
                if next(r for r in range(layout.workers.size) if layout[owner].owned(r)) == rank:
                    found[name] = Chunk.whole(tensor)
                continue
            chunks = layout.owned(owner, tensor if layout.mine(owner) else ())
            if len(chunks) > 1:
                raise ValueError(
                    f"a worker writes one box of a tensor: of {name} it answers for {len(chunks)}"
                )
            if chunks:
                found[name] = chunks[0]
        return found

    def whole_average(self) -> Model | None:
        """Return the average with nothing left out, on the first worker; elsewhere None. All workers call this.

        Placement:
            What the first worker has whole shares its memory with the state.

        Communication:
            What the first worker has not is sent to it.
        """
        average = self.state.average
        if self.layout.is_whole:
            return average if self.mesh.workers.is_first else None
        if not self._is_first_copy:
            return None
        gathered = {
            name: tensor.to(self.mesh.home)
            for name, tensor in self.layout.gather(self.placed.held(average))
            if tensor is not None
        }
        if self._form is None:
            return None
        return fill_states(copy.deepcopy(self._form), gathered)

    # -- what there is to say ------------------------------------------------------------------------------------------

    def trace_to(self, trace: Trace | None) -> None:
        """Note in a trace what this worker does from now on, where workers take turns; in none at all."""
        self.trace = trace if self.mesh.plan.has_timeline else None
        self.runner.trace_to(self.trace)

    @property
    def keeps_memory(self) -> bool:
        """Whether tensors that live on keep their memory while the model runs: else it cannot be counted."""
        return not any(one.frees_storage for one in self.mesh.strategies)

    @property
    def bytes_sent(self) -> int:
        """Bytes that this worker has sent over all axes but the data axis."""
        of_axes = sum(one.bytes_sent for one in self.mesh.strategies)
        return of_axes + sum(one.bytes_sent for one in self.placed.joined)

    def sent(self) -> list[tuple[int, Sent]]:
        """Return what this worker has sent over the data axis, by tier, the innermost first, with the workers that meet there."""
        return [(group.size, group.sent.copy()) for group in self.mesh.data.tiers]

    @property
    def data_bytes(self) -> int:
        """Bytes that this worker has given to others over the data axis: sent, or written into memory that they share."""
        return sum(sent.bytes + sent.shared_bytes for _, sent in self.sent())

    def facts(self) -> dict[str, Any]:
        """Return what the axes say of how the network lies on them, ready for JSON."""
        return {name: value for one in self.placed.joined for name, value in one.facts().items()}

    def describe(self) -> list[str]:
        """Return lines on how the model is spread over workers."""
        lines = [line for one in self.placed.joined for line in one.describe()]
        if (replicas := self.state.replicas) is not None:
            lines.append(replicas.describe())
        counts, places = self.shares.counts, self.mesh.data.size
        if len(counts) == places:
            lines.append(f"shares of {sum(counts)} microbatches: {self.shares}")
        elif counts:
            lines.append(
                f"note: {SETTING}={self.shares} is for {len(counts)} workers that take other samples: those of {places} are even"
            )
        return lines

    def close(self) -> None:
        """Remove the hooks from the model."""
        self.sums.close()
