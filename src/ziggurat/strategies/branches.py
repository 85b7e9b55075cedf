"""Level parallelism (lp): parallel branches of the network are computed by different workers, at the same time.

Every worker has all weights. It leaves the part of each gradient that comes from its own calls, and the parts of all workers
that compute the same images (lp and sp) are added up after the canonical sum over dp, in a fixed order. So weights, average
and optimizer stay the same bits on every worker, and the state of a run is whole on each.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.parallel.branches.branches import Branches
from ziggurat.parallel.collectives.pieces import PartSum
from ziggurat.parallel.collectives.running_statistics import RunningStatistics
from ziggurat.parallel.collectives.wire import Wire
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.pipeline.pipeline import Work
from ziggurat.strategies.base import Joined, Setting, Strategy
from ziggurat.strategies.costs.branch_costs import COSTS, agree_on_costs
from ziggurat.strategies.costs.team import Team
from ziggurat.strategies.estimate import StepCost
from ziggurat.strategies.pipeline import IN_FLIGHT, collect
from ziggurat.strategies.running import Microbatches, Runner
from ziggurat.strategies.sums import Section, Sums


class LevelParallel(Strategy):
    """Branches of the network, such as the levels of an image pyramid; every worker has all weights."""

    axis = "lp"
    meaning = "parallel branches of the network"
    inwards = 1
    parts_of_gradients = True
    needs_branches = True

    @classmethod
    def faults(cls, sizes: Mapping[str, int], text: str) -> list[str]:
        """Branches gather no weights."""
        return (
            [f"lp does not go with fsdp: got '{text}'; use one of them, with sp and tp"]
            if "fsdp" in sizes
            else []
        )

    @classmethod
    def estimate(cls, cost: StepCost, size: int) -> StepCost:
        """As if the whole network were branches of equal cost; each worker's part of the gradient is summed."""
        return cost.sum_gradients(size).share_computation(size)

    def join(self, model: nn.Module, setting: Setting) -> Joined:
        """Place the calls of the network by what each costs, as the first worker measures it."""
        return PlacedBranches(self, model, setting)


class PlacedBranches(Joined):
    """Models whose calls lie on the same workers.

    Attributes:
        placement: Of images of the setting's size.

    Placement:
        Every worker has all weights; it computes its own calls.
    """

    def __init__(self, strategy: LevelParallel, model: nn.Module, setting: Setting) -> None:
        self.workers, self.setting = strategy.workers, setting
        team = Team(strategy.topology.workers, strategy.workers, setting.data)
        file = None if setting.cache is None else setting.cache / COSTS
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the network's own
            tracer = setting.tracer(model)
            self.costs = agree_on_costs(
                model, tracer, setting.spec, team, setting.alone, file, setting.decisions, setting.measure
            )
        with setting.alone():
            self.placement = self._branches(model).pieces_of(setting.spec).placement
        self.channels: list[Any] = []

    def _branches(self, model: nn.Module) -> Branches:
        return Branches(model, self.setting.tracer(model), self.costs, self.workers, self.setting.spatial)

    def prepare(self, model: nn.Module) -> None:
        """Trace a model while it is whole."""
        self.setting.tracer(model)

    def runner(self, model: nn.Module) -> Runner:
        """Return what runs the branches."""
        runner = BranchRunner(self._branches(model))
        self.channels.append(runner.branches.channel)
        return runner

    def sums(self, sections: Sequence[Section], data: Workers, parts: PartSum | None, wire: Wire) -> Sums:
        """Return sums whose statistics lie on several workers."""
        return BranchSums(sections, data, parts, wire, self.workers)

    def describe(self) -> list[str]:
        """Return a line for each worker's branches, and one for the bound of the speed-up."""
        placement, total = self.placement, sum(self.placement.seconds)
        calls = [placement.worker_of.count(worker) for worker in range(self.workers.size)]
        lines = [
            f"branches on worker {worker} of lp: {calls[worker]} of {sum(calls)} calls, {seconds * 1000:.1f} ms of "
            f"{total * 1000:.1f} ms of a microbatch's forward"
            for worker, seconds in enumerate(placement.seconds)
        ]
        return [
            *lines,
            f"lp alone is at most {placement.bound:.2f} times as fast as one worker (by these times, without messages)",
        ]

    def facts(self) -> dict[str, Any]:
        """Return the seconds of each worker's calls, and the bound of the speed-up."""
        return {"branches": {"seconds": list(self.placement.seconds), "bound": self.placement.bound}}

    @property
    def bytes_sent(self) -> int:
        """Bytes that this worker has sent between branches."""
        return sum(channel.bytes_sent for channel in self.channels)


class BranchStatistics(RunningStatistics):
    """Running statistics of batch norms that are computed by several workers.

    Args:
        layers: A module with all of them.
        data: The workers that take other microbatches.
        network: Those that compute other calls of the same ones.
    """

    def __init__(self, layers: nn.Module, data: Workers, network: Workers) -> None:
        super().__init__(layers, data)
        self.network = network

    def finish(self, num_leaves: int, parts: Sequence[range] | None = None) -> None:
        """Combine the running statistics of all microbatches.

        Communication: one all-reduce over lp of those of this worker's microbatches (all calls of a norm are one worker's: to a
        number, zeros are added); then as `RunningStatistics.finish`.
        """
        if self.layers and self.leaves:
            self.leaves = list(self.network.add_up(torch.stack(self.leaves)))
        super().finish(num_leaves, parts)


class BranchSums(Sums):
    """The canonical sums, of microbatches whose statistics lie on several workers.

    Args: as `Sums` has them, and the workers of the lp axis.
    """

    def __init__(
        self, sections: Sequence[Section], data: Workers, parts: PartSum | None, wire: Wire, network: Workers
    ) -> None:
        self.network = network
        super().__init__(sections, data, parts, wire)

    def make_statistics(self, layers: nn.Module, data: Workers) -> BranchStatistics:
        """Return what keeps the running statistics."""
        return BranchStatistics(layers, data, self.network)

    def take_pieces(self, index: int) -> None:
        """Take what all pieces of a microbatch have left on this worker."""
        self.take_present(0, index)
        self.take_statistics(0)


class BranchRunner(Runner):
    """Runs microbatches by branches, one after the other.

    Args:
        branches: Of a placed model.
    """

    def __init__(self, branches: Branches) -> None:
        self.branches, self.workers = branches, branches.workers
        self.at_once = IN_FLIGHT * branches.workers.size

    def train(self, work: Microbatches, mine: Sequence[int], sums: Sums) -> list[Tensor]:
        """Run forward and backward.

        Args:
            work: Its images are asked for on the first worker of the lp axis, its terms on that of the last call.
            mine: The number of each of these microbatches in the step.
            sums: Take what each microbatch leaves behind.

        Returns:
            The terms of each microbatch, float64, on every worker of the lp axis.

        Communication:
            As `Branches.step`; then one gather of the terms over lp.
        """
        assert isinstance(sums, BranchSums)
        terms: dict[int, Tensor] = {}

        def begin(index: int) -> None:
            work.announce("forward", index)
            work.seed(index)

        def loss(outputs: Any, index: int) -> Tensor:
            found: Tensor = work.finish(outputs, index)
            terms[index] = found.detach().double()
            return found.sum()

        @contextmanager
        def leaf(stage: int, index: int) -> Iterator[None]:
            work.announce("backward", index)
            yield
            assert self.branches.newest is not None
            sums.take_pieces(mine[index])

        self.branches.step(Work(work.count, work.images, loss, begin, leaf=leaf, compute=work.compute))
        return collect(self.workers, terms, self.branches.drawn_backwards)

    def infer(self, work: Microbatches) -> list[Any]:
        """Run forward alone.

        Communication:
            As `Branches.infer`; then one gather of what is made of the outputs over lp.
        """
        outputs = self.branches.infer(Work(work.count, work.images, None, work.seed, compute=work.compute))
        with torch.no_grad():
            return collect(self.workers, {index: work.finish(one, index) for index, one in outputs.items()})
