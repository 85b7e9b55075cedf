"""Pipeline parallelism (pp): consecutive parts of the network, its stages, lie on different workers.

What a stage leaves behind of a microbatch is summed as everywhere: its gradients by the canonical sum over the data axis, its
batch norms' statistics in canonical order. A parameter that stages on several workers use is on each of them, and its
gradient is the sum of theirs.
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ziggurat.parallel.collectives.pieces import add_up_in_pieces
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.cannot_cut import CannotCut
from ziggurat.parallel.graph.stages import state_names
from ziggurat.parallel.pipeline.pipeline import Pipeline, Work
from ziggurat.parallel.pipeline.timing import Trace
from ziggurat.strategies.base import Joined, Setting, Strategy
from ziggurat.strategies.boxes import Box
from ziggurat.strategies.costs.cuts import CUTS, choose_cut
from ziggurat.strategies.costs.team import Team
from ziggurat.strategies.estimate import StepCost
from ziggurat.strategies.running import Microbatches, Runner
from ziggurat.strategies.sums import Section, Sums
from ziggurat.strategies.whole import drop_states, named_states
from ziggurat.torch_internals.modules import NORMS

T = TypeVar("T")

# Batches for each worker of a network that are given to it at a time: the first and the last ones leave workers idle.
IN_FLIGHT = 4


class PipelineParallel(Strategy):
    """Stages of the network: a worker has the weights of its own."""

    axis = "pp"
    meaning = "consecutive parts of the network"
    inwards = 1
    settings = ("pipeline.cut", "pipeline.schedule", "pipeline.max_bytes", "pipeline.checkpoint")
    variants: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "pipeline.schedule": ("1f1b", "gpipe", "interleaved")
    }
    savers: ClassVar[Mapping[str, Any]] = {"pipeline.checkpoint": "stage"}
    wants_microbatches = True
    takes_turns = True

    @classmethod
    def faults(cls, sizes: Mapping[str, int], text: str) -> list[str]:
        """Stages gather no weights, and have no branches in them."""
        return [
            f"{other} does not go with pp: got '{text}'; use one of them, with dp, sp and tp"
            for other in ("lp", "fsdp")
            if other in sizes
        ]

    @classmethod
    def estimate(cls, cost: StepCost, size: int) -> StepCost:
        """Equal stages: a worker waits for the first microbatch to come through, and holds those that are on their way."""
        filling = (cost.num_microbatches + size - 1) / max(1, cost.num_microbatches)
        alive = min(size, cost.num_microbatches)
        shared = cost.share_state(size).share_computation(size)
        return replace(shared, seconds=shared.seconds * filling, num_alive=cost.num_alive * alive)

    def join(self, model: nn.Module, setting: Setting) -> Joined:
        """Cut the network: where the user says, or where the stages take equally long by times that the first worker measures."""
        return Stages(self, model, setting)


class Stages(Joined):
    """Models that are cut into the same stages.

    Attributes:
        cut: Where.
        own: Names of this worker's parameters and buffers.

    Placement:
        A stage's weights are on its workers only; elsewhere they are tensors without memory.
    """

    def __init__(self, strategy: PipelineParallel, model: nn.Module, setting: Setting) -> None:
        self.workers, self.setting = strategy.workers, setting
        config, tracer = setting.config.pipeline, setting.tracer(model)
        team = Team(strategy.topology.workers, strategy.workers, setting.data)
        place = None if setting.cache is None else setting.cache / CUTS
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the network's own
            self.cut = choose_cut(
                model, tracer, setting.spec, team, config, setting.num_microbatches, setting.alone, place,
                setting.decisions, setting.measure,
            )  # fmt: skip
        with setting.alone():
            _, self.stages = self._pipeline(model).stages_of(setting.spec)
        names = state_names(self.stages, model)
        called = [{call.layer for call in stage.calls if call.function is None} for stage in self.stages]
        _give_norms(model, called, names)
        size, rank = self.workers.size, self.workers.rank
        self.mine = range(rank, len(self.stages), size)
        self.loss_place = (len(self.stages) - 1) % size
        self.of_stage = {number: names[number] for number in self.mine}
        self.own = set().union(*self.of_stage.values())
        of_worker = [set().union(*names[worker::size]) for worker in range(size)]
        parameters = {name for name, _ in model.named_parameters()}
        self.shared = sorted({n for a, b in itertools.combinations(of_worker, 2) for n in a & b & parameters})
        self.layers = {number: called[number] for number in self.mine}
        uses = Counter(name for of_stage in names for name in of_stage)
        self.in_several = {name for name, count in uses.items() if count > 1}
        self.schedule = config.schedule
        self.channels: list[Any] = []

    def _pipeline(self, model: nn.Module) -> Pipeline:
        config = self.setting.config.pipeline
        again = config.checkpoint == "stage"
        tracer, spatial = self.setting.tracer(model), self.setting.spatial
        return Pipeline(model, tracer, self.cut.layers, self.workers, config.schedule, spatial, again)

    def prepare(self, model: nn.Module) -> None:
        """Trace a model while it is whole."""
        self.setting.tracer(model)

    def place(self, model: nn.Module) -> None:
        """Drop what is not of this worker's stages."""
        drop_states(model, self.own)

    def narrow(self, name: str, box: Box, tensor: Tensor) -> Box | None:
        """Return the box of what is of this worker's stages."""
        return box if name in self.own else None

    def runner(self, model: nn.Module) -> Runner:
        """Return what runs the stages."""
        runner = PipelineRunner(self._pipeline(model))
        self.channels.append(runner.pipeline.channel)
        return runner

    def sections(self, model: nn.Module) -> list[Section]:
        """Return this worker's stages."""
        states = named_states(model)
        return [
            Section(
                {
                    name: state
                    for name, state in states.items()
                    if name in self.of_stage[number] and isinstance(state, nn.Parameter)
                },
                _container(model, self.layers[number]),
            )
            for number in self.mine
        ]

    def settle(self, gradients: dict[str, Tensor], needed: Callable[[str], Tensor]) -> None:
        """Add up the gradients of parameters that stages on several workers use.

        Communication:
            All-reduces over pp of these parameters.
        """
        trained = [name for name in self.shared if needed(name).requires_grad]
        totals = {
            name: gradients[name]
            if name in gradients
            else torch.zeros_like(needed(name), device=self.workers.device, requires_grad=False)
            for name in trained
        }
        add_up_in_pieces((totals[name] for name in trained), self.workers.add_up)
        gradients |= {name: total for name, total in totals.items() if name in self.own}

    def parts_gradient(self, name: str) -> bool:
        """Whether several stages use the parameter of a name."""
        return name in self.in_several

    def describe(self) -> list[str]:
        """Return a line for each stage."""
        return [
            f"stage {number} on worker {number % self.workers.size} of the pipeline: from {cost.name or 'the input'}, "
            f"{cost.seconds * 1000:.1f} ms a microbatch, {cost.state_bytes / 1e6:.1f} MB of weights"
            for number, cost in enumerate(self.cut.costs)
        ]

    def facts(self) -> dict[str, Any]:
        """Return the schedule, and each stage with its worker and its costs."""
        stages = [
            {"number": number, "worker": number % self.workers.size, **asdict(cost)}
            for number, cost in enumerate(self.cut.costs)
        ]
        return {"schedule": self.schedule, "workers": self.workers.size, "stages": stages}

    @property
    def bytes_sent(self) -> int:
        """Bytes that this worker has sent over the cuts."""
        return sum(channel.bytes_sent for channel in self.channels)


class PipelineRunner(Runner):
    """Runs microbatches through stages.

    Args:
        pipeline: Of a placed model.
    """

    looks_at_each = False

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.workers = pipeline, pipeline.workers
        self.at_once = IN_FLIGHT * pipeline.workers.size

    def train(self, work: Microbatches, mine: Sequence[int], sums: Sums) -> list[Tensor]:
        """Run forward and backward.

        Args:
            work: Its images are asked for on the first stage, its terms on the last.
            mine: The number of each of these microbatches in the step.
            sums: Take what each microbatch leaves behind.

        Returns:
            The terms of each microbatch, float64, on every worker of the pipeline.

        Communication:
            As `Pipeline.step`; then one gather of the terms over pp.
        """
        terms: dict[int, Tensor] = {}
        section = {number: place for place, number in enumerate(self.pipeline.mine)}

        def loss(outputs: Any, index: int) -> Tensor:
            found: Tensor = work.finish(outputs, index)
            terms[index] = found.detach().double()
            return found.sum()

        def after_forward(stage: int, index: int) -> None:
            sums.take_statistics(section[stage])

        @contextmanager
        def leaf(stage: int, index: int) -> Iterator[None]:
            with sums.leaf(section[stage], mine[index]):
                yield

        def begin(index: int) -> None:
            work.announce("forward", index)
            work.seed(index)

        self.pipeline.step(Work(work.count, work.images, loss, begin, after_forward, leaf, work.compute))
        return collect(self.workers, terms, self.pipeline.drawn_backwards)

    def trace_to(self, trace: Trace | None) -> None:
        """Note in a trace what this worker does from now on; in none at all."""
        self.pipeline.trace_to(trace)

    def infer(self, work: Microbatches) -> list[Any]:
        """Run forward alone.

        Communication:
            As `Pipeline.infer`; then one gather of what is made of the outputs over pp.
        """
        outputs = self.pipeline.infer(Work(work.count, work.images, None, work.seed, compute=work.compute))
        with torch.no_grad():
            return collect(self.workers, {index: work.finish(one, index) for index, one in outputs.items()})


def collect(workers: Workers, mine: dict[int, T], drawn: Set[str] = frozenset()) -> list[T]:
    """Return what some of the workers have made of each microbatch, on all of them.

    Args:
        workers: Those that compute the network together.
        mine: By the number of the microbatch; tensors come back on the worker's device.
        drawn: Names of generators of which this worker has drawn in backward passes.

    Raises:
        CannotCut: On all workers, if one has drawn: on one worker other numbers would have been drawn before.

    Communication:
        One gather.
    """

    def moved(value: Any, device: torch.device) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    cpu = torch.device("cpu")
    found: dict[int, T] = {}
    names: set[str] = set()
    for part, of_part in workers.gather(({index: moved(value, cpu) for index, value in mine.items()}, drawn)):
        found |= part
        names |= of_part
    if names:
        raise CannotCut(
            f"random numbers are drawn in the backward pass (from {' and '.join(sorted(names))}), by a hook on a gradient or a custom "
            "autograd function: where workers compute other layers, they would not be those of one worker; draw them in the forward "
            "pass, or run it without pp and lp"
        )
    return [moved(found[index], workers.device) for index in sorted(found)]


def _norms_not_called(model: nn.Module, called: set[str]) -> set[str]:
    """Return the batch norms that no stage calls (of an encoder's last blocks, say): they count steps all the same."""
    inside = tuple(f"{name}." for name in called if name)
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, NORMS) and name not in called and not name.startswith(inside)
    }


def _give_norms(model: nn.Module, called: list[set[str]], names: list[set[str]]) -> None:
    """Give the norms that no stage calls, with all their buffers, to the stages that use their statistics, or else to the last.

    Args:
        model: The network.
        called: The layers that each stage calls; changed.
        names: The states of each stage, of which those that none uses are the last's; changed.
    """
    for norm in _norms_not_called(model, set().union(*called)):
        buffers = {f"{norm}.{name}" for name, _ in model.get_submodule(norm).named_buffers()}
        users = [place for place, states in enumerate(names) if f"{norm}.running_mean" in states]
        for place, states in enumerate(names):
            if place in users:
                states |= buffers
                called[place].add(norm)
            elif users:
                states -= buffers
        if not users:
            called[-1].add(norm)


def _container(model: nn.Module, names: set[str]) -> nn.Module:
    """Return a module that holds some layers of a model."""
    container = nn.Module()
    for name in sorted(names):
        if name:
            container.add_module(name.replace(".", "/"), model.get_submodule(name))
    return container
