"""Measuring each call of a network on this worker, in one pass through all of it.

The network computes as it does in a stage or on a branch: nothing is copied, and what is needed no more is freed. Forward is timed
after each call. Backward goes through the calls in reverse order; a hook says when it arrives at each.

The first run is not counted: in it the process gets its memory from the system, page by page, which is dearest where the maps
are largest; and it is the one in which bytes and random numbers are looked at. Of the others the median counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from ziggurat.parallel.graph.costs import CallCost, Operation, call_names, function_name
from ziggurat.parallel.graph.generators import Generators
from ziggurat.parallel.graph.graph import INPUT, Call, Graph, Value, tensors_in
from ziggurat.parallel.graph.runner import Held, StageRunner
from ziggurat.parallel.graph.stages import make_stages
from ziggurat.parallel.graph.trace import ImageSpec
from ziggurat.parallel.graph.untouched import as_before
from ziggurat.torch_internals.tensors import memory_key

RUNS = 6
FORWARD_RUNS = 3
ENOUGH_SECONDS = 10.0  # after two runs


class Measure(Protocol):
    """What measures the calls of a network: `measure_calls`, or what stands in its place."""

    def __call__(
        self, model: nn.Module, graph: Graph, spec: ImageSpec, device: torch.device, *, backward: bool = True
    ) -> dict[str, CallCost]:
        """Return what each call costs, by the call's name."""


def measure_calls(
    model: nn.Module,
    graph: Graph,
    spec: ImageSpec,
    device: torch.device,
    *,
    backward: bool = True,
    runs: int | None = None,
    enough_seconds: float = ENOUGH_SECONDS,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, CallCost]:
    """Return what each call of a network costs, on this worker, by the call's name (see `call_names`).

    Seconds are the fewest of several runs: what else the machine does can only add to them.

    Args:
        model: With all its weights; its gradients are None afterwards, buffers and random numbers as before.
        graph: Of the model and images of this size.
        spec: Of the images of a microbatch.
        device: Where the model is.
        backward: Whether to go back, too; without, nothing is kept for it, and what concerns it stays unknown. So it does of a network
            through which PyTorch cannot go back (it changes in place what a gradient needs): it can predict, and who trains it is
            told by PyTorch.
        runs: Most runs, one at least; the first is counted where it is the only one. By default `RUNS`, or `FORWARD_RUNS` without
            backward.
        enough_seconds: No run begins later, but for the second.
        now: The clock: seconds that are measured, or those of a table.
    """
    most = runs or (RUNS if backward else FORWARD_RUNS)
    done: list[_Run] = []
    begin = time.perf_counter()
    gradients = torch.enable_grad() if backward else torch.no_grad()
    try:
        with as_before(model), gradients:
            while len(done) < min(most, 2) or (
                len(done) < most and time.perf_counter() - begin < enough_seconds
            ):
                done.append(_Run(model, graph, spec, device, backward, not done, now))
    except _NoWayBackError:
        return measure_calls(
            model, graph, spec, device, backward=False, runs=runs, enough_seconds=enough_seconds, now=now
        )
    finally:
        model.zero_grad(set_to_none=True)
    first, counted = done[0], done[1:] or done
    sizes = state_bytes(model)
    return {
        name: CallCost(
            min(run.forward_seconds[number] for run in counted),
            first.draws[number],
            min(run.backward_seconds[number] for run in counted) if backward else None,
            first.output_bytes[number],
            first.kept_bytes[number] if backward else None,
            sum(sizes.get(state, 0) for state in graph.calls[number].states),
            first.operations[number],
        )
        for number, name in enumerate(call_names(graph))
    }


def state_bytes(model: nn.Module) -> dict[str, int]:
    """Return the bytes of each parameter and buffer of a model that is saved, by its name."""
    return {name: t.numel() * t.element_size() for name, t in model.state_dict(keep_vars=True).items()}


class _NoWayBackError(Exception):
    """PyTorch cannot go back through the network."""


class _Run:
    """Forward, and perhaps backward, of the whole network.

    Attributes:
        forward_seconds: Of each call.
        backward_seconds: Of each call.
        draws: Whether each draws random numbers; if that is looked at, as are the following.
        output_bytes: Of what each makes.
        kept_bytes: Of what each is the first to keep.
        operations: What each computes.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        spec: ImageSpec,
        device: torch.device,
        backward: bool,
        look: bool,
        now: Callable[[], float],
    ) -> None:
        self.graph, self.device, self.look, self.clock = graph, device, look, now
        self.runner = StageRunner(model)
        count = len(graph.calls)
        self.forward_seconds, self.backward_seconds = [0.0] * count, [0.0] * count
        self.draws, self.output_bytes, self.kept_bytes = [False] * count, [0] * count, [0] * count
        self.operations: list[Operation] = []
        self.arrivals: list[tuple[float, int]] = []  # of backward: when, and at which call
        images = torch.randn(spec.shape, dtype=spec.dtype, device=device).as_strided(spec.shape, spec.strides)
        self.shapes = {Value(INPUT, 0): tuple(images.shape)}
        self.kept = {memory_key(images)}  # memories, all of which are alive until backward
        self.call, self.last = 0, self._now()
        keeps = torch.autograd.graph.saved_tensors_hooks(self._keep, _same) if look and backward else None
        with keeps or nullcontext():
            held = self._forward(images)
        if backward and held.loss is not None:
            self._backward(held)
        del self.runner

    def _forward(self, images: Tensor) -> Held:
        (stage,) = make_stages(self.graph, [])
        before: Callable[[int], None] = self._look_before if self.look else _ignore
        held = self.runner.forward(
            stage, self.graph, {Value(INPUT, 0): images}, self._after_call, before_call=before
        )
        floats = [tensor for tensor in tensors_in(held.outputs) if tensor.requires_grad]
        held.loss = torch.stack([tensor.sum() for tensor in floats]).sum() if floats else None
        return held

    def _look_before(self, number: int) -> None:
        self.generators = Generators.now(self.device)
        self.last = self._now()

    def _after_call(self, number: int, made: list[Tensor]) -> None:
        """Take the time of a call, and have backward say when it arrives there."""
        self.forward_seconds[number] = self._now() - self.last
        for node in filter(None, dict.fromkeys(tensor.grad_fn for tensor in made)):
            node.register_prehook(lambda gradients: self.arrivals.append((self._now(), number)))
        if self.look:
            self._look_after(number, made)
        self.call, self.last = number + 1, self._now()

    def _look_after(self, number: int, made: Sequence[Tensor]) -> None:
        self.draws[number] = bool(Generators.now(self.device).changed_since(self.generators).names)
        self.output_bytes[number] = sum(tensor.numel() * tensor.element_size() for tensor in made)
        self.shapes |= {Value(number, place): tuple(tensor.shape) for place, tensor in enumerate(made)}
        self.operations.append(self._operation(self.graph.calls[number], made))

    def _operation(self, call: Call, made: Sequence[Tensor]) -> Operation:
        name = function_name(call)
        if call.function is None:
            layer = self.runner.modules[call.layer]
            name = f"{type(layer).__name__}({layer.extra_repr()})"
        shapes = tuple(self.shapes[value] for value in call.uses)
        dtype = str(made[0].dtype).removeprefix("torch.") if made else ""
        is_cuda = self.device.type == "cuda"
        device = torch.cuda.get_device_name(self.device) if is_cuda else self.device.type
        return Operation(name, shapes, dtype, device, torch.get_num_threads())

    def _backward(self, held: Held) -> None:
        begin = self._now()
        try:
            StageRunner.backward(held, {})
        except (torch.OutOfMemoryError, torch.AcceleratorError):  # the device's, not the network's
            raise
        except RuntimeError as error:
            raise _NoWayBackError from error
        self.arrivals.append((self._now(), 0))
        call = len(self.graph.calls) - 1
        for now, following in self.arrivals:
            self.backward_seconds[call] += now - begin
            begin, call = now, following

    def _keep(self, tensor: Tensor) -> Tensor:
        key = memory_key(tensor)
        if not isinstance(tensor, nn.Parameter) and key not in self.kept:
            self.kept.add(key)
            self.kept_bytes[min(self.call, len(self.kept_bytes) - 1)] += tensor.untyped_storage().nbytes()
        return tensor

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _ignore(number: int) -> None:
    """Take note of nothing."""
