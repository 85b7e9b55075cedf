"""The pipeline: runs a schedule on this worker's stages, and talks to the workers of the others.

worker 0   stage 0   F0 -> F1 -> ...              ... <- B0    weights of stage 0
                       | values, by name    gradients ^
                       v                              |
worker 1   stage 1      F0 -> B0 -> F1 -> B1 -> ...            weights of stage 1
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.generators import Generators, noting_draws
from ziggurat.parallel.graph.graph import INPUT, Graph, Value
from ziggurat.parallel.graph.recent import Recent
from ziggurat.parallel.graph.runner import Held, StageRunner, like
from ziggurat.parallel.graph.stages import Stage, find_places, make_stages
from ziggurat.parallel.graph.trace import ImageSpec, Tracer, spec_of
from ziggurat.parallel.pipeline.crossings import Address, Crossings, Name
from ziggurat.parallel.pipeline.messages import Channel, Message
from ziggurat.parallel.pipeline.recompute import kept_whole
from ziggurat.parallel.pipeline.schedules import Action, Order, forward_only, make_schedule, num_stages
from ziggurat.parallel.pipeline.timing import Trace, noted
from ziggurat.parallel.spatial import SpatialMesh, band_of


def _no_context(*args: int) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Work:
    """What the pipeline is given of a step, in the order of its microbatches.

    Attributes:
        count: Microbatches of this pipeline.
        images: Returns those of a microbatch; called on the first stage, a second time of none.
        loss: From the network's outputs and the microbatch to its share, a number; called on the last stage.
        begin: Called before forward of a microbatch on every stage: seeds what is random.
        after_forward: Called with stage and microbatch.
        leaf: A context in which backward of a stage and microbatch runs.
        compute: A context in which the network computes: autocast.
    """

    count: int
    images: Callable[[int], Tensor]
    loss: Callable[[Any, int], Tensor] | None = None
    begin: Callable[[int], None] = lambda microbatch: None
    after_forward: Callable[[int, int], None] = lambda stage, microbatch: None
    leaf: Callable[[int, int], AbstractContextManager[None]] = _no_context
    compute: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass
class _Step:
    """The state of a step."""

    work: Work
    graphs: list[Graph]
    stages: list[list[Stage]]
    crossings: Crossings
    orders: list[Order]
    whole: set[tuple[int, int]]
    held: dict[tuple[int, int], Held] = field(default_factory=dict)
    taken: dict[int, int] = field(default_factory=dict)
    sent_by: dict[int, list[tuple[int, Name]]] = field(default_factory=dict)
    arrived: dict[Name, Message] = field(default_factory=dict)
    outputs: dict[int, Any] = field(default_factory=dict)
    losses: dict[int, Tensor] = field(default_factory=dict)
    alive: int = 0


class Pipeline:
    """A network whose stages lie on different workers.

    Args:
        model: Takes one tensor. This worker needs the weights of its own stages only.
        tracer: Of the model, made while it had all weights.
        cut: Names of the layers at which new stages start, one fewer than there are stages.
        workers: Of the pp axis; stage ``s`` is on worker ``s % workers.size``.
        schedule: ``gpipe``, ``1f1b`` or ``interleaved``.
        spatial: The workers that share each image, if they do.
        recompute: Whether activations are computed again for backward, where they would be kept for long.
        in_slots: How messages travel, see `messages`; by default as the device needs it.

    Attributes:
        mine: Numbers of this worker's stages.
        channel: Counts what was sent.
        peak_alive: Most microbatches of all this worker's stages that were alive at once in the last step.
        drawn_backwards: Names of generators of which a backward pass of this worker's has drawn.
    """

    def __init__(
        self,
        model: nn.Module,
        tracer: Tracer,
        cut: Sequence[str],
        workers: Workers,
        schedule: str = "1f1b",
        spatial: SpatialMesh | None = None,
        recompute: bool = False,
        in_slots: bool | None = None,
    ) -> None:
        self.model, self.tracer, self.cut, self.workers = model, tracer, tuple(cut), workers
        self.schedule, self.num_stages = schedule, num_stages(schedule, workers.size)
        if len(self.cut) != self.num_stages - 1:
            raise ValueError(
                f"{self.num_stages} stages need {self.num_stages - 1} cuts: got {len(self.cut)} ({', '.join(self.cut)})"
            )
        self.mine = range(workers.rank, self.num_stages, workers.size)
        self.runner = StageRunner(model)
        self.channel = Channel(workers, spatial, in_slots)
        self.recompute = recompute
        self.stages = Recent[Graph, list[Stage]]()
        self.peak_alive = 0
        self.drawn_backwards: set[str] = set()
        self.trace: Trace | None = None

    def trace_to(self, trace: Trace | None) -> None:
        """Note in a trace what this worker does from now on; in none at all."""
        self.trace = self.channel.trace = trace

    def stages_of(self, spec: ImageSpec) -> tuple[Graph, list[Stage]]:
        """Return the graph of images of a size, and its stages."""
        graph = self.tracer.trace(spec, allow=("numbers",))
        return graph, self.stages.get(graph, lambda: make_stages(graph, find_places(graph, self.cut)))

    def _stages_of_each(self, specs: Sequence[ImageSpec], work: Work) -> list[tuple[Graph, list[Stage]]]:
        """Return the graph of each microbatch, and its stages."""
        of_spec = {spec: self.stages_of(spec) for spec in dict.fromkeys(specs)}
        found = []
        for index, spec in enumerate(specs):
            graph, stages = of_spec[spec]
            own = self.tracer.trace_microbatch(spec, graph, partial(work.begin, index))
            places = [stage.first for stage in stages[1:]]
            found.append((own, stages if own is graph else make_stages(own, places)))
        return found

    def step(self, work: Work) -> tuple[dict[int, Any], dict[int, Tensor]]:
        """Run forward and backward of all microbatches.

        Returns:
            The outputs (detached) and the loss of each microbatch, on the worker of the last stage; elsewhere nothing.

        Raises:
            CollectiveFailed: If another worker has ended or is stuck.
            UserError: `CannotCut`, or if the layers of the cut are not there in images of this size.

        Placement:
            The first stage's worker has the images, the last one's the targets. Each has the gradients of its stages
            afterwards; of a parameter that several stages use, each the part of its own uses.

        Communication:
            The shapes of the images to all workers; then the tensors that cross each cut to every stage that needs
            them, and as many bytes back.
        """
        orders = make_schedule(self.schedule, self.workers.size, work.count)
        return self._run(work, orders)

    def infer(self, work: Work) -> dict[int, Any]:
        """Run forward of all microbatches; the outputs are on the worker of the last stage."""
        with torch.no_grad():
            return self._run(work, forward_only(self.workers.size, self.num_stages, work.count))[0]

    def _run(self, work: Work, orders: list[Order]) -> tuple[dict[int, Any], dict[int, Tensor]]:
        images = [work.images(index) for index in range(work.count)] if 0 in self.mine else []
        specs = self.workers.broadcast_object([spec_of(one) for one in images])
        with work.compute():
            of_each = self._stages_of_each(specs, work)
        graphs, stages = [graph for graph, _ in of_each], [stages for _, stages in of_each]
        step = _Step(
            work,
            graphs,
            stages,
            Crossings(stages, self.workers.size),
            orders,
            kept_whole(orders[self.workers.rank]),
        )
        self.peak_alive = 0
        if self.channel.in_slots:
            self._run_in_slots(step, images)
        else:
            for action in orders[self.workers.rank]:
                self._do(step, action, images)
            self.channel.flush()
        return step.outputs, step.losses

    def _run_in_slots(self, step: _Step, images: list[Tensor]) -> None:
        """Do this worker's actions, each in its slot, and take part in the exchange after every slot."""
        for slot in step.crossings.timetable(step.orders)[self.workers.rank]:
            if slot.action is not None:
                self._do(step, slot.action, images)
            arrived = self.channel.swap([source for source, _ in slot.receives])
            step.arrived |= {name: one for (_, name), one in zip(slot.receives, arrived, strict=True)}

    def _do(self, step: _Step, action: Action, images: list[Tensor]) -> None:
        if action.kind == "forward":
            self._forward(step, action, images)
        else:
            self._backward(step, action)
        self.peak_alive = max(self.peak_alive, step.alive)

    def _forward(self, step: _Step, action: Action, images: list[Tensor]) -> None:
        _, number, index = action
        stage = step.stages[index][number]
        step.work.begin(index)
        keyed = Generators.now(self.workers.device)
        received: dict[Value, Tensor] = {}
        for source in step.crossings.sources(stage):
            message = self._receive(step, "forward", (index, source, number))
            received |= {value: tensor for value, tensor in message.tensors.items() if tensor is not None}
            if source == number - 1 and message.note is not None:
                message.note.set(
                    self.workers.device
                )  # they go with a microbatch, as if one worker drew all numbers
        if number == 0:
            received[Value(INPUT, 0)] = images[index]
        with noted(self.trace, "forward", str(action)), step.work.compute():
            again = self.recompute and (number, index) not in step.whole
            ordered = dict(sorted(received.items()))
            held = self.runner.forward(stage, step.graphs[index], ordered, again=again)
        drawn = Generators.now(self.workers.device).changed_since(keyed)
        if number == self.num_stages - 1:
            step.outputs[index] = held.outputs
            if step.work.loss is not None:
                with noted(self.trace, "forward", f"loss of {index}"):
                    held.loss = step.work.loss(held.outputs, index)
                step.losses[index] = held.loss.detach()
            held.outputs = None
        for target in step.crossings.targets(stage, self.num_stages):
            tensors = {value: held.sent[value] for value in stage.sends.get(target, ())}
            note = drawn if drawn.names and target == number + 1 else None
            self._send(step, "forward", (index, number, target), Message(tensors, note))
        step.work.after_forward(number, index)
        if torch.is_grad_enabled():
            step.held[number, index] = held
            step.alive += 1

    def _backward(self, step: _Step, action: Action) -> None:
        _, number, index = action
        stage, held = step.stages[index][number], step.held.pop((number, index))
        gradients: dict[Value, Tensor] = {}
        for user in sorted(stage.sends, reverse=True):  # as autograd does: the latest use first
            message = self._receive(step, "backward", (index, user, number))
            for value, gradient in message.tensors.items():
                if gradient is not None:
                    gradients[value] = gradients[value] + gradient if value in gradients else gradient
        with (
            step.work.leaf(number, index),
            noted(self.trace, "backward", str(action)),
            noting_draws(self.drawn_backwards, self.workers.device),
        ):
            back = self.runner.backward(held, gradients)
        for source, values in stage.receives.items():
            tensors = {value: back[value] for value in values if value in back}
            self._send(step, "backward", (index, number, source), Message(tensors))
        step.alive -= 1

    def _send(self, step: _Step, kind: str, address: Address, message: Message) -> None:
        target = step.crossings.worker(address[2])
        if target == self.workers.rank:
            here = {n: None if t is None else _arrived(t) for n, t in message.tensors.items()}
            step.arrived[kind, address] = Message(here, message.note)
        else:
            taken_by = Action("forward" if kind == "forward" else "backward", address[2], address[0])
            self.channel.send(message, target, step.orders[target].index(taken_by))

    def _receive(self, step: _Step, kind: str, address: Address) -> Message:
        """Return a message, after taking those that its sender has sent before."""
        source = step.crossings.worker(address[1])
        while not self.channel.in_slots and (kind, address) not in step.arrived:
            number = step.taken.get(source, 0)
            step.taken[source] = number + 1
            place, name = self._sent_by(step, source)[number]
            step.arrived[name] = self.channel.receive(source)
            self.channel.settle(source, place)
        return step.arrived.pop((kind, address))

    def _sent_by(self, step: _Step, source: int) -> list[tuple[int, Name]]:
        """Return the messages that a worker sends this one in a step, in order, with the place of its action."""
        if source not in step.sent_by:
            step.sent_by[source] = [
                (place, name)
                for place, action in enumerate(step.orders[source])
                for target, name in step.crossings.messages(action)
                if target == self.workers.rank
            ]
        return step.sent_by[source]


def _arrived(tensor: Tensor) -> Tensor:
    """Return a tensor as a stage on the same worker receives it: its own leaf, the same memory."""
    local = band_of(tensor)
    return like(tensor, local.detach().requires_grad_(local.requires_grad))
