"""Replicas of a model that train by themselves between two exchanges (local SGD), and the outer step that joins them.

    outer weights  w ──┬── replica 0   H steps on its microbatches ──> w_0 ──┐
                       ├── replica 1   H steps on its microbatches ──> w_1 ──┼── outer step ──> w, on every worker
                       └── replica 2   H steps on its microbatches ──> w_2 ──┘

Replicas are virtual: part of the run's definition, whatever the number of workers, each of which has some of them, in order. The outer
step takes the mean of what they have moved by as a gradient, of which momentum is kept (Nesterov's, as PyTorch's SGD has it)::

    g = mean of (w - w_r) over replicas r, added up in the canonical tree
    m = momentum * m + g
    w = w - lr * (g + momentum * m)

Between two steps the model holds the outer weights, the same on every worker: these are evaluated, and saved. A replica's own weights
take their place while it computes (`in_place`). After an outer step every replica is the outer weights, and has none of its own.

References:
    Stich, Local SGD Converges Fast and Communicates Little, 2019. https://arxiv.org/abs/1805.09767
    Wang et al., SlowMo, 2020. https://arxiv.org/abs/1910.00643
    Douillard et al., DiLoCo, 2023, algorithm 1. https://arxiv.org/abs/2311.08105
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ziggurat.config import LocalSgdConfig
from ziggurat.parallel.collectives.canonical import gather_leaves, partition, sum_leaves
from ziggurat.parallel.collectives.gradients import GradientSum
from ziggurat.parallel.collectives.running_statistics import RunningStatistics
from ziggurat.parallel.collectives.workers import Workers

PREFIX, MOMENTUM = "replicas.", "replicas.momentum."
MODEL, OPTIMIZER = "model", "optimizer"

Facts = TypeVar("Facts")  # what is known of a tensor that is stored


@dataclass
class Replica:
    """What one replica has for itself.

    Attributes:
        tensors: Its trained weights and running statistics, by name; none where they are the outer ones.
        slots: What its optimizer keeps of each parameter, by name.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    slots: dict[str, dict[str, Any]] = field(default_factory=dict)


class Replicas:
    """The replicas of a run that are this worker's.

    Args:
        model: Whole; between two steps it holds the outer weights.
        optimizer: Of its parameters: what it keeps of them is each replica's own.
        config: Of the run.
        workers: Of the data axis, over which replicas are spread.

    Attributes:
        mine: The numbers of this worker's replicas.
        held: What each of these has for itself, by number.
        momentum: Of the outer step, by the parameter's name; the same on every worker.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: LocalSgdConfig, workers: Workers
    ) -> None:
        self.config, self.optimizer, self.workers = config, optimizer, workers
        self.of_workers = partition(config.replicas, workers.size)
        self.mine = self.of_workers[workers.rank]
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        norms = RunningStatistics(model, Workers(device=workers.device))
        names = {id(buffer): name for name, buffer in model.named_buffers()}
        self.statistics = {names[id(buffer)]: buffer for buffer in norms.buffers}
        self.counters = {names[id(one)]: one for one in norms.counters if one is not None}
        self.owned: dict[str, Tensor] = {**self.parameters, **self.statistics, **self.counters}
        self.held = {number: Replica() for number in self.mine}
        self.momentum: dict[str, Tensor] = {}
        if config.outer_momentum:
            self.momentum = {name: torch.zeros_like(p.detach()) for name, p in self.parameters.items()}

    # -- a replica in the place of the outer weights ------------------------------------------------------------------

    @contextmanager
    def in_place(self, number: int) -> Iterator[None]:
        """Let the model and its optimizer be a replica's in a block; afterwards the model holds the outer weights again."""
        replica, state = self.held[number], self.optimizer.state
        outer = {name: tensor.data for name, tensor in self.owned.items()}
        if not replica.tensors:
            replica.tensors = {name: tensor.clone() for name, tensor in outer.items()}
        _point(self.owned, replica.tensors)
        state.update({self.parameters[name]: slots for name, slots in replica.slots.items()})
        try:
            yield
        finally:
            replica.slots = {
                name: state.pop(parameter)
                for name, parameter in self.parameters.items()
                if parameter in state
            }
            _point(self.owned, outer)

    # -- the outer step ---------------------------------------------------------------------------------------------------

    def is_due(self, done: int, num_steps: int) -> bool:
        """Whether an outer step follows after so many steps: every ``sync_every``, and after the last one."""
        return done % self.config.sync_every == 0 or done == num_steps

    @torch.no_grad()
    def outer_step(self, sums: GradientSum) -> None:
        """Join all replicas; all workers call this.

        Args:
            sums: Over the workers, of the trained parameters; no step is under way.

        Placement:
            Before and after, every worker has the same outer weights, and its own replicas.

        Communication:
            What the gradients of one step send that has a microbatch for each replica; one all-gather of each replica's running
            statistics, float64.
        """
        sums.start(self.config.replicas, self.of_workers)
        for number in self.mine:
            moved = self.held[number].tensors
            for name, parameter in self.parameters.items():
                outer = parameter.detach()
                parameter.grad = outer - moved.get(name, outer)
            sums.take_present(number)
        sums.finish()
        for name, parameter in self.parameters.items():
            assert parameter.grad is not None
            gradient, parameter.grad = parameter.grad / self.config.replicas, None
            if name in self.momentum:
                momentum = self.momentum[name].mul_(self.config.outer_momentum).add_(gradient)
                gradient = gradient.add_(momentum, alpha=self.config.outer_momentum)
            parameter.detach().sub_(gradient, alpha=self.config.outer_lr)
        self._join_statistics()
        for replica in self.held.values():
            replica.tensors = {}

    def _join_statistics(self) -> None:
        """Add to the running statistics the mean of what those of the replicas have moved by; counters are those of replica 0."""
        if not self.statistics:
            return
        names = [*self.statistics, *self.counters]
        rows = [
            torch.cat(
                [
                    (one.tensors.get(n, self.owned[n]).double() - self.owned[n].double()).flatten()
                    for n in names
                ]
            )
            for one in self.held.values()
        ]
        moved = gather_leaves(torch.stack(rows), self.of_workers, self.workers)
        sizes = [self.owned[name].numel() for name in names]
        mean, first = sum_leaves(moved) / self.config.replicas, moved[0]
        for name, change, of_first in zip(names, mean.split(sizes), first.split(sizes), strict=True):
            outer = self.owned[name]
            change = change if name in self.statistics else of_first
            outer.copy_((outer.double() + change.view_as(outer)).to(outer.dtype))

    def describe(self) -> str:
        """Return a line on the replicas."""
        config, counts = self.config, ",".join(str(len(mine)) for mine in self.of_workers)
        return (
            f"local SGD: {config.replicas} replicas ({counts} on each worker), joined every {config.sync_every} steps by an outer step "
            f"(lr {config.outer_lr}, momentum {config.outer_momentum})"
        )

    # -- what a checkpoint holds -----------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by its name in the state: those of this worker's replicas, and the momentum, which all workers have."""
        found: dict[str, Tensor] = {}
        for number, replica in self.held.items():
            found |= {f"{PREFIX}{number}.{MODEL}.{name}": one for name, one in replica.tensors.items()}
            for name, slots in replica.slots.items():
                values = {slot: value for slot, value in slots.items() if value is not None}
                found |= {f"{PREFIX}{number}.{OPTIMIZER}.{name}.{slot}": one for slot, one in values.items()}
        return found | {f"{MOMENTUM}{name}": value for name, value in self.momentum.items()}

    def is_others(self, name: str) -> bool:
        """Whether a tensor of a state is of a replica that lies on another worker."""
        number = name.removeprefix(PREFIX).partition(".")[0]
        is_number = name.startswith(PREFIX) and number.isdecimal()
        return is_number and int(number) < self.config.replicas and int(number) not in self.mine

    def begin_like(self, stored: Mapping[str, Facts], make: Callable[[Facts, nn.Parameter], Tensor]) -> None:
        """Make room for what a checkpoint has of this worker's replicas, of which it may have no weights: then they are the outer ones.

        Args:
            stored: What is known of its tensors, by name.
            make: Makes room for what an optimizer keeps of a parameter.
        """
        for number, replica in self.held.items():
            prefix = f"{PREFIX}{number}."
            mine = {
                name.removeprefix(prefix): facts for name, facts in stored.items() if name.startswith(prefix)
            }
            has_weights = any(name.startswith(f"{MODEL}.") for name in mine)
            replica.tensors = {n: one.data.clone() for n, one in self.owned.items()} if has_weights else {}
            replica.slots = {}
            for name, facts in mine.items():
                owner, _, slot = name.removeprefix(f"{OPTIMIZER}.").rpartition(".")
                if name.startswith(f"{OPTIMIZER}.") and owner in self.parameters:
                    replica.slots.setdefault(owner, {})[slot] = make(facts, self.parameters[owner])

    def bad(self) -> list[str]:
        """Return the weights of this worker's replicas that are not finite, with the replica's number."""
        return [
            f"{name} of replica {number}"
            for number, replica in self.held.items()
            for name, value in replica.tensors.items()
            if name in self.parameters and not value.isfinite().all()
        ]


def _point(tensors: Mapping[str, Tensor], to: Mapping[str, Tensor]) -> None:
    """Let tensors have the memory of others: nothing is copied, and hooks and modules keep the tensors."""
    for name, tensor in tensors.items():
        tensor.data = to[name]
