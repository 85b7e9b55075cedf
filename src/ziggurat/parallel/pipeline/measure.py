"""Measuring a network between all places where it can be cut, in one pass through all of it.

The network computes as it does in a stage: nothing is copied, and what is needed no more is freed. Forward is timed after
each call. Backward goes through the calls in reverse order; a hook says when it arrives at each.

The first run is not counted: in it the process gets its memory from the system, page by page, which is dearest where the maps
are largest. Of the others the median counts.
"""

from __future__ import annotations

import bisect
import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.parallel.graph.graph import INPUT, Graph, Value, tensors_in
from ziggurat.parallel.graph.runner import Held, StageRunner
from ziggurat.parallel.graph.stages import make_stages
from ziggurat.parallel.graph.trace import ImageSpec, Tracer
from ziggurat.parallel.pipeline.balance import Unit
from ziggurat.torch_internals.tensors import memory_key

RUNS = 6
ENOUGH_SECONDS = 10.0  # after two runs


def measure(
    model: nn.Module,
    tracer: Tracer,
    spec: ImageSpec,
    runs: int = RUNS,
    enough_seconds: float = ENOUGH_SECONDS,
) -> list[Unit]:
    """Return what each piece of a network costs, on this worker.

    Args:
        model: With all its weights; its gradients are None afterwards, buffers and random numbers as before.
        tracer: Of the model.
        spec: Of the images of a microbatch.
        runs: Most runs, one at least; the first is counted where it is the only one.
        enough_seconds: No run begins later, but for the second.
    """
    graph = tracer.trace(spec)
    names: dict[int, str] = {0: ""}
    for name, place in graph.places().items():
        names.setdefault(place, name)
    places = sorted(names)
    states = {name: t.numel() * t.element_size() for name, t in model.state_dict(keep_vars=True).items()}
    done: list[_Run] = []
    begin = time.perf_counter()
    with as_before(model), torch.enable_grad():
        while len(done) < min(runs, 2) or (len(done) < runs and time.perf_counter() - begin < enough_seconds):
            done.append(_Run(model, graph, places, spec, tracer.device, count=not done))
    counted = done[1:] or done
    bounds = [*places, len(graph.calls)]
    return [
        Unit(
            names[first],
            statistics.median(run.seconds[number] for run in counted),
            done[0].kept_bytes[number],
            tuple((n, states[n]) for call in graph.calls[first:stop] for n in call.states if n in states),
            graph.live_bytes(first) if number else 0,
            statistics.median(run.forward_seconds[number] for run in counted),
        )
        for number, (first, stop) in enumerate(itertools.pairwise(bounds))
    ]


class _Run:
    """Forward and backward of the whole network.

    Attributes:
        seconds: Of each piece, forward and backward.
        forward_seconds: Of each piece, forward alone.
        kept_bytes: Of each piece: what it is the first to keep; if they are counted, which takes time.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        places: list[int],
        spec: ImageSpec,
        device: torch.device,
        count: bool,
    ) -> None:
        self.graph, self.places, self.device = graph, places, device
        self.seconds, self.kept_bytes = [0.0] * len(places), [0] * len(places)
        self.arrivals: list[tuple[float, int]] = []  # of backward: when, and at which piece
        images = torch.randn(spec.shape, dtype=spec.dtype, device=device).as_strided(spec.shape, spec.strides)
        self.kept = {memory_key(images)}  # memories, all of which are alive until backward
        self.piece, self.last = 0, self._now()
        with torch.autograd.graph.saved_tensors_hooks(self._keep, _same) if count else nullcontext():
            held = self._forward(StageRunner(model), images)
        self.forward_seconds = list(self.seconds)
        if held.loss is not None:
            self._backward(held)

    def _forward(self, runner: StageRunner, images: Tensor) -> Held:
        (stage,) = make_stages(self.graph, [])
        held = runner.forward(stage, self.graph, {Value(INPUT, 0): images}, self._after_call)
        floats = [tensor for tensor in tensors_in(held.outputs) if tensor.requires_grad]
        held.loss = torch.stack([tensor.sum() for tensor in floats]).sum() if floats else None
        return held

    def _after_call(self, number: int, made: list[Tensor]) -> None:
        """Take the time of a call, and have backward say when it arrives there."""
        now, piece = self._now(), self.piece
        self.seconds[piece] += now - self.last
        for node in filter(None, dict.fromkeys(tensor.grad_fn for tensor in made)):
            node.register_prehook(lambda gradients: self.arrivals.append((self._now(), piece)))
        self.piece, self.last = bisect.bisect_right(self.places, number + 1) - 1, self._now()

    def _backward(self, held: Held) -> None:
        begin = self._now()
        StageRunner.backward(held, {})
        self.arrivals.append((self._now(), 0))
        piece = len(self.places) - 1
        for now, following in self.arrivals:
            self.seconds[piece] += now - begin
            begin, piece = now, following

    def _keep(self, tensor: Tensor) -> Tensor:
        key = memory_key(tensor)
        if not isinstance(tensor, nn.Parameter) and key not in self.kept:
            self.kept.add(key)
            self.kept_bytes[self.piece] += tensor.untyped_storage().nbytes()
        return tensor

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _same(tensor: Tensor) -> Tensor:
    return tensor


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
