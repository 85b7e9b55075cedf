"""Measuring a network between all places where it can be cut: each piece is run as a stage of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.parallel.pipeline.balance import Unit
from ziggurat.parallel.pipeline.graph import INPUT, Graph, Value, tensors_in
from ziggurat.parallel.pipeline.record import ImageSpec, Skeleton
from ziggurat.parallel.pipeline.runner import Held, StageRunner
from ziggurat.parallel.pipeline.stages import Stage, make_stages


def measure(model: nn.Module, skeleton: Skeleton, spec: ImageSpec, repeats: int = 2) -> list[Unit]:
    """Return what each piece of a network costs, on this worker.

    Args:
        model: With all its weights; its gradients are None afterwards, buffers and random numbers as before.
        skeleton: Of the model.
        spec: Of the images of a microbatch.
        repeats: The fastest of so many runs counts.
    """
    graph = skeleton.record(spec)
    names: dict[int, str] = {0: ""}
    for name, place in graph.places().items():
        names.setdefault(place, name)
    places = sorted(names)
    stages = make_stages(graph, places[1:])
    states = {name: t.numel() * t.element_size() for name, t in model.state_dict(keep_vars=True).items()}
    with as_before(model), torch.enable_grad():
        runs = [_Run(model, graph, stages, spec, skeleton.device) for _ in range(repeats)]
    return [
        Unit(
            names[place],
            min(run.seconds[number] for run in runs),
            runs[0].kept_bytes[number],
            tuple((n, states[n]) for call in stage.calls for n in call.states if n in states),
            graph.live_bytes(place) if number else 0,
        )
        for number, (place, stage) in enumerate(zip(places, stages, strict=True))
    ]


class _Run:
    """Forward and backward of all pieces, one after the other.

    Attributes:
        seconds: Of each piece.
        kept_bytes: Of each piece.
    """

    def __init__(
        self, model: nn.Module, graph: Graph, stages: list[Stage], spec: ImageSpec, device: torch.device
    ) -> None:
        self.runner, self.graph, self.device = StageRunner(model), graph, device
        self.seconds, self.kept_bytes = [0.0] * len(stages), [0] * len(stages)
        images = torch.randn(spec.shape, dtype=spec.dtype, device=device)
        self.made: dict[Value, Tensor] = {Value(INPUT, 0): images.as_strided(spec.shape, spec.strides)}
        held = [self._forward(stage) for stage in stages]
        self.gradients: dict[Value, Tensor] = {}
        for stage in reversed(stages):
            self._backward(stage, held[stage.number])

    def _forward(self, stage: Stage) -> Held:
        received = {v: _arrived(self.made[v]) for values in stage.receives.values() for v in values}
        if stage.number == 0:
            received[Value(INPUT, 0)] = self.made[Value(INPUT, 0)]
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, nn.Parameter):
                kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        with self._timed(stage), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            held = self.runner.forward(stage, self.graph, received)
        self.kept_bytes[stage.number] = sum(kept.values())
        self.made |= held.sent
        if held.outputs is not None:
            floats = [t for t in tensors_in(held.outputs) if t.requires_grad]
            held.loss = torch.stack([t.sum() for t in floats]).sum() if floats else None
        return held

    def _backward(self, stage: Stage, held: Held) -> None:
        given = {v: self.gradients.pop(v) for v in held.sent if v in self.gradients}
        with self._timed(stage):
            back = self.runner.backward(held, given)
        for value, gradient in back.items():
            if gradient is not None:
                self.gradients[value] = (
                    self.gradients[value] + gradient if value in self.gradients else gradient
                )

    @contextmanager
    def _timed(self, stage: Stage) -> Iterator[None]:
        self._wait()
        begin = time.perf_counter()
        yield
        self._wait()
        self.seconds[stage.number] += time.perf_counter() - begin

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _arrived(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


@contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """Leave buffers and random numbers as they were, and no gradients."""
    buffers: dict[str, Any] = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng():
        yield
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
