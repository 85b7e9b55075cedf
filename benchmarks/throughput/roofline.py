"""How near a step comes to the time of its convolutions alone, and where the rest goes.

The convolutions alone are the calls of PyTorch that the step itself makes, forward and backward: recorded from it, and made again in the same
order on tensors of the same shapes, types and memory order. Their time is what no arrangement of the other parts can go below, as long as
the same kernels compute them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from variants import MODEL, PER_MICROBATCH, Ours, Peer, ratio

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.allocator import keep_freed_memory

FORWARD, BACKWARD = torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default
WEIGHT = {FORWARD: 1, BACKWARD: 2}  # the place of the weights among the arguments
SECTIONS = ("backbone", "neck", "head")

# Whose time an operation's is, by its name or that of one that it is called by; the innermost decides.
BY_NAME = {
    "convolution": ("aten::conv", "aten::_convolution", "aten::mkldnn_conv", "mkldnn::", "mkldnn_prepacked::",
                    "autograd::engine::evaluate_function: ConvolutionBackward0"),
    "norms": ("aten::batch_norm", "aten::native_batch_norm", "aten::group_norm", "aten::native_group_norm",
              "autograd::engine::evaluate_function: NativeBatchNorm", "autograd::engine::evaluate_function: NativeGroupNorm"),
    "activations": ("aten::relu", "autograd::engine::evaluate_function: ReluBackward0"),
    "resampling": ("aten::upsample", "aten::max_pool", "autograd::engine::evaluate_function: Upsample",
                   "autograd::engine::evaluate_function: MaxPool"),
    "loss": ("_FocalSums", "autograd::engine::evaluate_function: _FocalSumsBackward"),
    "optimizer": ("Optimizer.step", "aten::_foreach_lerp_", "aten::_fused_sgd_"),
    "casts": ("aten::to", "aten::_to_copy", "autograd::engine::evaluate_function: ToCopyBackward0"),
    "exchange": ("autograd::engine::evaluate_function: torch::autograd::AccumulateGrad",),
}  # fmt: skip
PREFIX = "part: "


class Spec(tuple[Any, ...]):
    """Shape, strides and type of a tensor, and the number of the weights that it is; 0 is none."""

    __slots__ = ()


@dataclass(frozen=True)
class Call:
    """A convolution, forward or backward.

    Attributes:
        function: Of PyTorch.
        arguments: Its own, with a `Spec` in the place of each tensor.
        section: Of the network.
    """

    function: Any
    arguments: tuple[Any, ...]
    section: str


class Recorder(TorchDispatchMode):
    """Notes the convolutions that are computed while it is entered.

    Args:
        model: Its children are the sections.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.weights: dict[int, tuple[int, str]] = {}  # of each memory: a number, and the section
        self.kept: list[Tensor] = []  # so that nobody else gets their memory
        self.section = ""
        self.hooks = [
            child.register_forward_pre_hook(lambda module, inputs, name=name: self._enter(name))
            for name, child in model.named_children()
        ]

    def _enter(self, name: str) -> None:
        self.section = name

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in WEIGHT:
            weight = args[WEIGHT[function]]
            if weight.data_ptr() not in self.weights:
                self.weights[weight.data_ptr()] = len(self.weights) + 1, self.section
                self.kept.append(weight)
            section = self.weights[weight.data_ptr()][1]
            specs = tuple(self._spec(a) if isinstance(a, Tensor) else a for a in args)
            self.calls.append(Call(function, specs, section))
        return function(*args, **(kwargs or {}))

    def _spec(self, tensor: Tensor) -> Spec:
        number, _ = self.weights.get(tensor.data_ptr(), (0, ""))
        return Spec((tuple(tensor.shape), tensor.stride(), tensor.dtype, number))

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()


class Convolutions:
    """The convolutions of a step, alone.

    Args:
        calls: In the order of the step.
    """

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls
        tensors: dict[Spec, Tensor] = {}
        self.ready = [
            (
                call.function,
                [_tensor(a, tensors) if isinstance(a, Spec) else a for a in call.arguments],
                call.section,
            )
            for call in calls
        ]

    def __call__(self, section: str = "") -> None:
        """Compute those of a section, or all."""
        with torch.no_grad():
            for function, arguments, of in self.ready:
                if not section or of == section:
                    function(*arguments)

    @property
    def flop(self) -> int:
        """Multiplications and additions of all of them."""
        return sum(_flop(call) for call in self.calls)


def _tensor(spec: Spec, tensors: dict[Spec, Tensor]) -> Tensor:
    """Return the tensor of a spec, the same for the same weights, and for all that are no weights and look alike."""
    if spec not in tensors:
        shape, strides, dtype, _ = spec
        tensors[spec] = torch.empty_strided(shape, strides, dtype=dtype).normal_()
    return tensors[spec]


def _flop(call: Call) -> int:
    first, weight = call.arguments[0][0], call.arguments[WEIGHT[call.function]][0]
    if call.function is BACKWARD:
        wanted = sum(call.arguments[-1][:2])  # of the input, of the weights
        positions = first[0] * first[2] * first[3]
    else:
        stride, padding, dilation = call.arguments[3:6]
        sides = [
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, p, d, k, s in zip(first[2:], padding, dilation, weight[2:], stride, strict=True)
        ]
        wanted, positions = 1, first[0] * sides[0] * sides[1]
    return 2 * wanted * positions * weight[0] * weight[1] * weight[2] * weight[3]


def record(ours: Ours, work: str) -> Convolutions:
    """Return the convolutions of a training step, or of the network in evaluation."""
    recorder = Recorder(ours.model)
    with recorder:
        if work == "train_step":
            ours.train_step()
        else:
            ours.model.eval()
            with torch.no_grad():
                images = ours.feed.images(ours.batches[0])
                with ours.feed.compute():
                    ours.model(images)
    recorder.close()
    return Convolutions(recorder.calls)


class Marked:
    """An object some of whose methods are noted in a profile as calls of a part.

    Args:
        inner: The object.
        parts: The part of each such method.
    """

    def __init__(self, inner: Any, parts: dict[str, str]) -> None:
        self._inner, self._parts = inner, parts

    def __getattr__(self, name: str) -> Any:
        value, part = getattr(self._inner, name), self._parts.get(name)
        if part is None:
            return value

        def called(*args: Any, **named: Any) -> Any:
            with record_function(PREFIX + part):
                return value(*args, **named)

        return called


@contextmanager
def marked(ours: Ours) -> Iterator[None]:
    """Note the parts of a step while a block runs."""
    step, before = ours.step, (ours.step.parallel, ours.step.task, ours.step.feed, ours.task, ours.feed)
    of_task = {"assign": "loss", "normalizers": "loss", "loss_shares": "loss", "decode": "decoding"}
    of_workers = dict.fromkeys(["sum", "gather", "finish_gradients", "finish_statistics"], "exchange")
    of_workers |= dict.fromkeys(["norm", "clip", "update"], "optimizer")
    step.parallel = Marked(step.parallel, of_workers)  # type: ignore[assignment]  # it stands for it
    step.task = ours.task = Marked(step.task, of_task)  # type: ignore[assignment]  # it stands for it
    step.feed = ours.feed = Marked(step.feed, {"images": "data"})  # type: ignore[assignment]  # it stands for it
    try:
        yield
    finally:
        step.parallel, step.task, step.feed, ours.task, ours.feed = before


def parts_of(ours: Ours, work: str) -> dict[str, float]:
    """Return the share of each part in the time of a step, the largest first; ``between and other``: Python, and what is named nowhere."""
    with marked(ours), profile(activities=[ProfilerActivity.CPU]) as profiled, record_function("whole"):
        getattr(ours, work)()
    seconds: Counter[str] = Counter()
    whole = 0.0
    for event in profiled.events():
        if event.name == "whole":
            whole = event.cpu_time_total
        seconds[_part_of(event)] += event.self_cpu_time_total
    return {part: round(spent / whole, 4) for part, spent in seconds.most_common()}


def _part_of(event: Any) -> str:
    while event is not None:
        for part, names in BY_NAME.items():
            if event.name.startswith(names):
                return part
        if event.name.startswith(PREFIX):
            return str(event.name.removeprefix(PREFIX))
        event = event.cpu_parent
    return "between and other"


def both_clocks(function: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds that a call takes, and those of all its processors."""
    begin, begin_processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - begin, time.process_time() - begin_processor


def roofline(
    size: int, dtype: str, rounds: int, threads: int, model: str = MODEL, with_peer: bool = True
) -> dict[str, Any]:
    """Return the share that a step's convolutions alone have in it, for training and inference, beside torchvision in the same rounds.

    Args:
        size: Rows and columns of the images.
        dtype: ``bf16`` or ``fp32``; of torchvision's model, too: autocast around the forward pass.
        rounds: In each of which everything takes a turn.
        threads: Of the process.
        model: Ours.
        with_peer: Whether torchvision's model is measured beside it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    keep_freed_memory()  # as in every process of `ziggurat train`
    try:
        ours = Ours(size, dtype, Workers(), 1, model)
        peer = Peer(size, dtype) if with_peer else None
        return {work: _against(work, ours, peer, rounds) for work in ("train_step", "infer")}
    finally:
        torch.set_num_threads(before)


def _against(work: str, ours: Ours, peer: Peer | None, rounds: int) -> dict[str, Any]:
    convolutions = record(ours, work)
    with ours.inference() if work == "infer" else nullcontext():
        return _in_turns(work, ours, peer, convolutions, rounds)


def _in_turns(
    work: str, ours: Ours, peer: Peer | None, convolutions: Convolutions, rounds: int
) -> dict[str, Any]:
    turns: dict[str, Callable[[], None]] = {"ziggurat": getattr(ours, work), "convolutions": convolutions}
    if peer is not None:
        turns["torchvision"] = getattr(peer, work)
    for turn in 2 * [*turns.values()]:
        turn()  # warm-up: in the second run of a shape, weights are packed
    clocks: list[dict[str, tuple[float, float]]] = [
        {name: both_clocks(turn) for name, turn in turns.items()} for _ in range(rounds)
    ]
    report: dict[str, Any] = {}
    for number, clock in enumerate(("seconds", "processor seconds")):
        rows = [{name: pair[number] for name, pair in row.items()} for row in clocks]
        report[f"share of the roofline, {clock}"] = ratio(rows, "convolutions", "ziggurat")
        if peer is not None:
            report[f"ziggurat / torchvision, {clock}"] = ratio(rows, "torchvision", "ziggurat")
    fastest = {name: min(row[name][0] for row in clocks) for name in turns}
    report["images per second, fastest round"] = {
        name: round(PER_MICROBATCH / s, 3) for name, s in fastest.items()
    }
    report["GFLOP/s of the convolutions, fastest round"] = round(
        convolutions.flop / fastest["convolutions"] / 1e9, 1
    )
    sections = {name: both_clocks(lambda name=name: convolutions(name))[0] for name in SECTIONS}
    report["convolutions by section"] = {
        name: round(s / sum(sections.values()), 3) for name, s in sections.items()
    }
    report["parts of a step"] = parts_of(ours, work)
    return report
