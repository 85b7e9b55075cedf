"""What others would say of the same cells: ParaDL's formulas, and PyTorch's own count of memory.

ParaDL (Kahira et al., 2021, https://arxiv.org/abs/2104.09075, table III; ``FW``, ``BW`` and ``WU`` are measured layer by layer), for a step of
``B`` samples of ``delta`` bytes a number over ``p`` workers, with the ring's ``alpha`` and ``beta``:

    data       (FW + BW) / p + WU   + 2 (p - 1) (alpha + |w| / p * delta * beta)
    spatial    (FW + BW) / p + WU   + the same + 2 sum over layers of (2 alpha + (halo(x) + halo(y)) * delta * beta)
    pipeline   (p + S - 1) / S * max over stages of (FW + BW) + max WU   + 2 (p + S - 2) max over cuts of (alpha + y / S * delta * beta)
    filter     (FW + BW) / p + WU / p   + 3 (p - 1) sum over layers of (alpha + y / p * delta * beta)

The paper has hybrids of data and filter, and its appendix says that others follow in the same way: data and spatial are put together
so here. It has nothing for fsdp, for parallel branches, and for other products. Layers are the convolutions and products of matrices of the step of
one worker as it is recorded; all that a step computes beside them counts among them, in proportion. Workers that share a core wait for each other, which the
paper's never do: their computing is stretched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker

from ziggurat.planning.amounts import bytes_of
from ziggurat.planning.kernels import forms_in
from ziggurat.planning.network import Link
from ziggurat.planning.program import Kernel, Mark, Program
from ziggurat.strategies.plan import Plan
from ziggurat.torch_internals.containers import tree_leaves

LAYERS = ("aten.convolution.default", "aten.addmm.default", "aten.mm.default")
UPDATES = ("_fused_adam", "_foreach_", "_fused_sgd")


@dataclass(frozen=True)
class Layer:
    """A layer in a step of one worker.

    Attributes:
        seconds: Of all its microbatches, forward and backward.
        read: Bytes of its input, of all microbatches.
        written: Bytes of its output.
        weights: Bytes.
        halo: Bytes of the rows of the input and of the gradient that a neighbour needs.
        calls: How often it is called.
    """

    seconds: float
    read: int
    written: int
    weights: int
    halo: int
    calls: int


@dataclass(frozen=True)
class ParaDL:
    """What its formulas need of a network.

    Attributes:
        layers: In the order of forward.
        update: Seconds of the optimizer's step.
        pieces: Microbatches.
        training: Whether there is a backward pass, and an exchange of gradients.
    """

    layers: tuple[Layer, ...]
    update: float
    pieces: int
    training: bool

    @staticmethod
    def of(program: Program, seconds: Callable[[Kernel], float], pieces: int) -> ParaDL:
        """Return it of the recorded step of one worker."""
        layers: dict[Kernel, int] = {}
        update = whole = 0.0
        training = False
        for event in program.events:
            if isinstance(event, Mark):
                training |= event.name.startswith("backward")
            if not isinstance(event, Kernel):
                continue
            taken = seconds(event)
            if any(word in event.name for word in UPDATES):
                update += taken
            else:
                whole += taken
            if event.name in LAYERS:
                layers[event] = layers.get(event, 0) + 1
        work = {kernel: count * _work(kernel) for kernel, count in layers.items()}
        total = sum(work.values()) or 1.0
        found = tuple(_layer(kernel, count, whole * work[kernel] / total) for kernel, count in layers.items())
        return ParaDL(found, update, pieces, training)

    def seconds(self, plan: Plan, link: Link, cores: float) -> float | None:
        """Return the seconds of a step under a plan; None where there is no formula.

        Args:
            plan: Of some workers.
            link: ``alpha`` and ``beta`` of a message.
            cores: That the workers share.
        """
        degrees = {axis: plan.size(axis) for axis in plan.degrees}
        stretch = max(1.0, plan.num_workers / cores)
        compute, ways = sum(layer.seconds for layer in self.layers), 2 if self.training else 1
        data, parts = degrees.pop("dp", 1), degrees.pop("sp", 1)
        if "pp" in degrees and data == parts == 1 and len(degrees) == 1:
            return self._pipeline(degrees["pp"], link, ways, stretch)
        filters = degrees.pop("tp", 1)
        if degrees or (filters > 1 and parts > 1):
            return None
        workers = data * parts * filters
        found = (compute / workers + self.update / filters) * stretch
        if self.training and data * parts > 1:
            share = sum(layer.weights for layer in self.layers) / (data * parts * filters)
            found += 2 * (data * parts - 1) * (link.alpha + share * link.beta)
        if parts > 1:
            found += ways * sum(
                layer.calls * 2 * link.alpha + layer.halo * link.beta / data for layer in self.layers
            )
        if filters > 1:
            messages = 3 if self.training else 1
            found += messages * (filters - 1) * sum(
                layer.calls * link.alpha + layer.written / (data * filters) * link.beta for layer in self.layers
            )  # fmt: skip
        return found

    def num_bytes(self, plan: Plan) -> int | None:
        """Return the most bytes of tensors of a worker; None where there is no formula."""
        degrees = {axis: plan.size(axis) for axis in plan.degrees}
        data, parts, filters = (degrees.pop(axis, 1) for axis in ("dp", "sp", "tp"))
        stages = degrees.pop("pp", 1)
        if degrees or (stages > 1 and data * parts * filters > 1) or (filters > 1 and parts > 1):
            return None
        held = [layer.read + layer.written for layer in self.layers]
        weights = [layer.weights for layer in self.layers]
        if stages > 1:
            return max(
                2 * sum(held[i] + weights[i] for i in group) for group in _groups(self._costs(), stages)
            )
        return 2 * (sum(held) // (data * parts) + sum(weights) // filters)

    def _costs(self) -> list[float]:
        return [layer.seconds for layer in self.layers]

    def _pipeline(self, stages: int, link: Link, ways: int, stretch: float) -> float:
        groups = _groups(self._costs(), stages)
        slowest = max(sum(self.layers[i].seconds for i in group) for group in groups)
        crossing = max(self.layers[group[-1]].written for group in groups[:-1])
        pieces = self.pieces
        computing = (stages + pieces - 1) / pieces * slowest + self.update / stages
        return computing * stretch + ways * (stages + pieces - 2) * (
            link.alpha + crossing / pieces * link.beta
        )


def _work(kernel: Kernel) -> float:
    forms = forms_in(kernel.arguments)
    if "convolution" in kernel.name:
        weight = forms[1]
        return math.prod(_made(kernel)) * math.prod(weight.shape[1:])
    first, second = forms[-2:]
    return math.prod(first.shape) * second.shape[-1]


def _made(kernel: Kernel) -> tuple[int, ...]:
    """Return the shape of what a layer gives."""
    forms = forms_in(kernel.arguments)
    if "convolution" not in kernel.name:
        first, second = forms[-2:]
        return first.shape[0], second.shape[-1]
    given, weight = forms[:2]
    stride, padding, dilation, transposed, more, groups = kernel.arguments[3:9]
    assert isinstance(stride, tuple)
    assert isinstance(padding, tuple)
    assert isinstance(dilation, tuple)
    assert isinstance(more, tuple)
    assert isinstance(groups, int)
    sizes = []
    for dim, size in enumerate(given.shape[2:]):
        step, pad, gap, window = stride[dim], padding[dim], dilation[dim], weight.shape[2 + dim]
        if transposed:
            sizes.append((size - 1) * step - 2 * pad + gap * (window - 1) + 1 + more[dim])
        else:
            sizes.append((size + 2 * pad - gap * (window - 1) - 1) // step + 1)
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    return given.shape[0], channels, *sizes


def _layer(kernel: Kernel, count: int, seconds: float) -> Layer:
    forms = forms_in(kernel.arguments)
    given, weight = forms[:2] if "convolution" in kernel.name else forms[-2:]
    made = _made(kernel)
    halo = 0
    if "convolution" in kernel.name:
        rows = weight.shape[2] // 2
        halo = rows * sum(4 * math.prod(shape) // shape[2] for shape in (given.shape, made))
    return Layer(
        seconds, count * bytes_of(given), count * 4 * math.prod(made), bytes_of(weight), count * halo, count
    )


def _groups(costs: Sequence[float], stages: int) -> list[list[int]]:
    """Return consecutive layers of each stage, of about equal costs."""
    groups: list[list[int]] = [[] for _ in range(stages)]
    total, before = sum(costs), 0.0
    for place, cost in enumerate(costs):
        at_least = max(0, stages - (len(costs) - place))
        groups[max(at_least, min(stages - 1, int((before + cost / 2) / total * stages)))].append(place)
        before += cost
    return groups


def tracked_bytes(build: Callable[[], nn.Module], shape: Sequence[int], training: bool) -> int:
    """Return the most bytes of a step of one worker, as ``MemTracker`` of PyTorch counts them; the step is taken.

    Its counterpart for seconds, ``RuntimeEstimator``, asks for a GPU's properties, and ends the process where there is none.

    Args:
        build: Makes the network.
        shape: Of the images of a microbatch of this worker.
        training: Whether it learns, by AdamW.
    """
    model, images = build().train(training), torch.rand(tuple(shape))
    tracker = MemTracker()
    optimizer = torch.optim.AdamW(model.parameters())
    tracker.track_external(model, images, *([optimizer] if training else []))
    with tracker, torch.set_grad_enabled(training):
        for _ in range(2):  # the first makes moments
            outputs = [one for one in tree_leaves(model(images)) if _is_number(one)]
            if training:
                total = sum((one.float().sum() for one in outputs), torch.zeros(()))
                total.backward()
                optimizer.step()
                optimizer.zero_grad()
            tracker.reset_mod_stats()
    snapshot: dict[Any, dict[Any, int]] = tracker.get_tracker_snapshot("peak")
    return max(of_device["Total"] for of_device in snapshot.values())


def _is_number(one: Any) -> bool:
    return isinstance(one, torch.Tensor) and one.is_floating_point() and one.requires_grad
