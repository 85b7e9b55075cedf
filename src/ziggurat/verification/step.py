"""The step of `ziggurat train`, taken once by one worker and once under a plan: what it leaves behind is what is compared.

Nothing of the step is done here. The network, a moving average that differs from it, and an optimizer whose moments are not
zero are joined to the workers as a run's are, and `ziggurat.training.step.Step` is called. What is here is drawn at random from a seed,
goes in, and is looked at as it passes: images on their way into the network, outputs on their way into the loss.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ziggurat.config import RunConfig
from ziggurat.parallel.collectives.sent import Sent
from ziggurat.parallel.graph.trace import spec_of
from ziggurat.parallel.pipeline.timing import Span, Trace
from ziggurat.parallel.spatial import SpatialTensor, cut
from ziggurat.parallel.spatial.tensor import add_up, cut_axes
from ziggurat.strategies.base import Setting
from ziggurat.strategies.costs.decisions import Decisions
from ziggurat.strategies.layout import Chunk, Layout
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.sharded import shard_bytes
from ziggurat.strategies.state import ACCUMULATED, TrainState, owner_of
from ziggurat.strategies.whole import local, named_states
from ziggurat.training.optimization import make_optimizer
from ziggurat.training.step import Loss, Step
from ziggurat.verification.losses import Objective, Piece, make_objective, tensors_of
from ziggurat.verification.memory import PeakBytes
from ziggurat.verification.precision import KeepFloat64

Found = TypeVar("Found")

WIDTH = 12**0.5  # of a uniform distribution of variance 1, which is drawn in a quarter of a normal one's time


@dataclass(frozen=True)
class Trial:
    """The step that is taken once by one worker, and once under a plan.

    Attributes:
        images: The whole input, shape ``(B, C, *spatial)``.
        seed: Of what is drawn: targets, the loss's weights, moments, the average; of dropout and drop path, so that every worker
            draws the masks of the whole.
        num_microbatches: Pieces of the batch, which a plan spreads over workers; the last may be smaller.
        config: Its model's name decides on the loss, see `make_objective`; its ``train`` on optimizer, clipping and average.
        decisions: What was measured before, where a plan is to follow it.
    """

    images: Tensor
    seed: int = 0
    num_microbatches: int = 1
    config: RunConfig = field(default_factory=RunConfig)
    decisions: Decisions = field(default_factory=Decisions)

    def pieces(self) -> list[Piece]:
        """Return the microbatches."""
        return [
            Piece(number, images) for number, images in enumerate(self.images.chunk(self.num_microbatches))
        ]


@dataclass(frozen=True)
class Seen:
    """What one microbatch leaves behind; of a network that several workers compute, on those that have it.

    Attributes:
        outputs: All tensors that the network returned, in order; spatial tensors where images are cut.
        input_gradient: Of its images; a spatial tensor where they are cut.
        typical_loss: See `Objective.typical_size`; of a reference only.
    """

    outputs: list[Tensor] | None
    input_gradient: Tensor | None
    typical_loss: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What one step leaves behind, as far as it is this worker's; in the CPU's memory.

    Attributes:
        seen: By the number of the microbatch, those of this worker.
        losses: Of every microbatch of the step, float64, as every worker knows them.
        norm: Of the gradient, before it was clipped.
        gradients: By the parameter's name; after clipping.
        buffers: By name.
        state: Weights, moving average and the optimizer's moments after the step, as `TrainState.tensors` names them.
    """

    seen: dict[int, Seen]
    losses: Tensor
    norm: Tensor
    gradients: dict[str, Chunk]
    buffers: dict[str, Chunk]
    state: dict[str, Chunk]

    def copied(self) -> Outcome:
        """Return copies of the tensors that another step would change."""
        return replace(
            self,
            losses=self.losses.clone(),
            norm=self.norm.clone(),
            gradients=_copied(self.gradients),
            buffers=_copied(self.buffers),
            state=_copied(self.state),
        )


@dataclass(frozen=True)
class Cost:
    """What one step costs this worker.

    Attributes:
        seconds: Of the step.
        peak_bytes: Most bytes of tensors that were alive at once; 0 if they were not counted (under plans which free the memory of
            tensors that live on).
        weight_bytes: Of the parameters that this worker holds between steps.
        bytes_sent: By this worker over all axes but the data axis, whose bytes are not counted.
        exchange: What it has sent over the data axis in the last step that was taken, by tier, with the workers that meet there.
        gathers: Bytes that this worker has received, by layer and operation.
        facts: What the axes say of how the network lies on them.
        spans: What this worker did, where a trace was asked for.
    """

    seconds: float
    peak_bytes: int = 0
    weight_bytes: int = 0
    bytes_sent: int = 0
    exchange: tuple[tuple[int, Sent], ...] = ()
    gathers: dict[tuple[str, str], int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()


class Watch:
    """The feed and the loss of a verified step, which note what passes.

    Args:
        trial: The step.
        objective: The loss.
        mesh: The workers.
    """

    def __init__(self, trial: Trial, objective: Objective, mesh: Mesh) -> None:
        self.trial, self.objective, self.mesh = trial, objective, mesh
        self.leaves: dict[int, Tensor] = {}
        self.given: dict[int, Tensor] = {}
        self.outputs: dict[int, list[Tensor]] = {}

    def __getattr__(self, name: str) -> Any:  # names of terms and normalizers: the objective's
        return getattr(self.objective, name)

    def images(self, batch: Piece) -> Tensor:
        """Return a microbatch's images, and keep the leaf that receives their gradient."""
        leaf = given = batch.images.to(self.mesh.workers.device, copy=True)
        if self.mesh.spatial is not None:
            bands = cut(leaf, self.mesh.spatial)
            leaf = bands.local.clone()
        leaf.requires_grad_()
        if self.mesh.spatial is not None:
            given = SpatialTensor(leaf, bands.dims, self.mesh.spatial)
        self.leaves[batch.number], self.given[batch.number] = leaf, given
        return given

    def seed(self, batch: Piece) -> None:
        """Let what is random depend on the microbatch."""
        torch.manual_seed(self.trial.seed + batch.number)

    def announce(self, name: str, batch: Piece) -> None:
        """Say nothing: nobody watches."""

    def compute(self) -> AbstractContextManager[Any]:
        """Keep float64 where the network would leave it."""
        return KeepFloat64()

    def assign(self, batch: Piece) -> tuple[int, Any]:
        """Return the number of the microbatch with what the loss compares outputs with."""
        return batch.number, self.objective.assign(batch)

    def normalizers(self, assignment: tuple[int, Any]) -> Tensor:
        """Return the objective's."""
        return self.objective.normalizers(assignment[1])

    def output_sums(self, outputs: Any, assignment: tuple[int, Any]) -> Tensor:
        """Return the objective's."""
        return self.objective.output_sums(outputs, assignment[1])

    def loss_shares(self, outputs: Any, assignment: tuple[int, Any], totals: Tensor) -> dict[str, Tensor]:
        """Return the objective's, and keep the outputs."""
        self.outputs[assignment[0]] = [noted(output) for output in tensors_of(outputs)]
        return self.objective.loss_shares(outputs, assignment[1], totals)

    def input_gradient(self, number: int) -> Tensor | None:
        """Return the gradient of a microbatch's images; None where this worker has not been asked for them."""
        if number not in self.leaves:
            return None
        leaf, given = self.leaves[number], self.given[number]
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        if not isinstance(given, SpatialTensor):
            return gradient
        uncut = set(range(len(given.mesh.axes))) - set(cut_axes(given))  # of these each worker has a part
        return SpatialTensor(add_up(gradient, given.mesh, sorted(uncut)), given.dims, given.mesh)


def start_state(model: nn.Module, trial: Trial) -> TrainState[nn.Module]:
    """Return a state as after some steps: an average that differs from the model, moments that are not zero.

    Args:
        model: With its weights.
        trial: Its seed and its ``config.train`` are used.
    """
    generator = torch.Generator().manual_seed(trial.seed)

    def draw(like: Tensor) -> Tensor:
        """Return numbers of a mean of 0 and a variance of 1, the same ones for every type and device."""
        return torch.rand(like.shape, generator=generator).sub_(0.5).mul_(WIDTH).to(like)

    train = trial.config.train
    is_trained = any(parameter.requires_grad for parameter in model.parameters())
    optimizer = make_optimizer(model, train) if is_trained else torch.optim.SGD([{"params": []}])
    state = TrainState.start(model.train(), optimizer, train.ema)
    if state.average is not state.model:
        with torch.no_grad():
            for value in named_states(state.average).values():
                if value.is_floating_point():
                    value.addcmul_(value, draw(value), value=0.05)
    total = sum(p.numel() for p in model.parameters())
    scale = max(train.clip_norm, 1e-3) / max(1, total) ** 0.5  # of a gradient that is clipped
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            moment = draw(parameter) * scale
            state.optimizer.state[parameter] = (
                {"momentum_buffer": _like(moment, parameter)}
                if isinstance(state.optimizer, torch.optim.SGD)
                else {
                    "step": torch.tensor(3.0, device=parameter.device),
                    "exp_avg": _like(moment, parameter),
                    "exp_avg_sq": _like(draw(parameter).square().add(0.1) * scale**2, parameter),
                }
            )
    state.step = 3
    return state


def accumulate_for(state: TrainState[Any], loss: Loss[Any], seed: int = 0) -> None:
    """Let a state have what a loss accumulates, as after some steps: numbers from 0 to 1, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    count = len(
        getattr(loss, "accumulated_names", ())
    )  # a loss that is no task's need not say that it has none
    state.accumulated = torch.rand(count, generator=generator, dtype=torch.float64)


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """Return values in a parameter's memory format, as the fused optimizers want them."""
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


def run_step(model: nn.Module, trial: Trial, mesh: Mesh) -> Outcome:
    """Take one step, and return copies of what it leaves behind; see `watch_step`."""
    return watch_step(model, trial, mesh, Outcome.copied)[0]


def as_it_is(outcome: Outcome) -> Outcome:
    """Return what a step leaves behind: of a network that nobody changes afterwards."""
    return outcome


def watch_step(
    model: nn.Module,
    trial: Trial,
    mesh: Mesh,
    look: Callable[[Outcome], Found],
    count_bytes: bool = False,
    timed: bool = False,
) -> tuple[Found, Cost]:
    """Take one step, and look at what it leaves behind.

    Args:
        model: Changed; what is others' under the plan is dropped.
        trial: The step.
        mesh: The workers; of one worker for the reference. All of them call this.
        look: Called once after the step, on this worker; what it returns is returned. Tensors that it is given are the model's and
            the optimizer's own, not copies, which large networks have no memory for.
        count_bytes: Whether to count the bytes of tensors, which slows the step.
        timed: Whether to take another step for the time, and where the plan has stages for a trace.

    Raises:
        UnsupportedOperation: If the network does what cannot run on bands.
        UserError: If the network cannot be spread so.

    Placement:
        Every worker has the whole input before; after, outputs and the input's gradient are cut, or on the workers that
        compute them.
    """
    pieces = trial.pieces()
    state = start_state(model.to(mesh.home), trial)
    objective = make_objective(model, trial.images.shape, pieces, trial.config, trial.seed, mesh)
    accumulate_for(state, objective, trial.seed)
    watch = Watch(trial, objective, mesh)
    setting = Setting(
        replace(spec_of(pieces[0].images), requires_grad=True), trial.config, len(pieces), watch.compute,
        copy.deepcopy(trial.decisions),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the network's own, once for each worker
        parallel = Parallel(state, mesh, setting)
        with closing(parallel):
            mine = [pieces[index] for index in parallel.microbatches_of(len(pieces))]
            step = Step(parallel, watch, watch, trial.config.train.clip_norm)
            counted = count_bytes and parallel.keeps_memory
            memory = PeakBytes([*state.tensors().values()]) if counted else nullcontext()
            before = parallel.sent()
            begin = time.perf_counter()
            with memory:
                result = step(mine, len(pieces))
            _finish(mesh)
            seconds, sent = time.perf_counter() - begin, parallel.bytes_sent
            found = look(_outcome(parallel, result.norm, result.terms.sum(1), watch))
            trace = Trace(mesh.workers.device)
            if timed:
                parallel.trace_to(trace)
                mesh.workers.barrier()
                trace.start()
                before = parallel.sent()
                begin = time.perf_counter()
                step(mine, len(pieces))
                _finish(mesh)
                seconds = time.perf_counter() - begin
            exchange = [
                (size, now - then) for (size, now), (_, then) in zip(parallel.sent(), before, strict=True)
            ]
    return found, Cost(
        seconds=seconds,
        peak_bytes=memory.peak if isinstance(memory, PeakBytes) else 0,
        weight_bytes=shard_bytes(model),
        bytes_sent=sent,
        exchange=tuple(exchange),
        gathers={name: size for one in mesh.strategies for name, size in one.gathers().items()},
        facts=parallel.facts(),
        spans=tuple(trace.spans),
    )


def _finish(mesh: Mesh) -> None:
    """Wait for what a GPU has been given."""
    device = mesh.workers.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _outcome(parallel: Parallel[nn.Module], norm: Tensor, losses: Tensor, watch: Watch) -> Outcome:
    """Return what this worker has of what a step leaves behind."""
    state, layout, moments = parallel.state, parallel.layout, parallel.moments

    def chunk(owner: str, tensor: Tensor, layout: Layout = layout) -> Chunk:
        boxes = layout.mine(owner)
        same = bool(boxes) and tensor.shape == boxes[0].shape
        return Chunk(noted(tensor), boxes[0].start if same else (0,) * tensor.dim())

    names = {name: p for name, p in parallel.trained.items() if moments.mine(name)}
    gradients = {n: torch.zeros_like(local(p)) if p.grad is None else local(p.grad) for n, p in names.items()}
    buffers = {n: local(b) for n, b in state.model.named_buffers() if layout.mine(n)}
    alone = parallel.mesh.workers.size == 1
    seen = {}
    for index in parallel.mine:
        outputs = watch.outputs.get(index)
        typical = watch.objective.typical_size(outputs or []) if alone else 0.0
        gradient = watch.input_gradient(index)
        seen[index] = Seen(outputs, None if gradient is None else noted(gradient), typical)
    return Outcome(
        seen=seen,
        losses=noted(losses),
        norm=noted(norm),
        gradients={name: chunk(name, value, moments) for name, value in gradients.items()},
        buffers={name: chunk(name, value) for name, value in buffers.items()},
        state={
            name: chunk(owner_of(name), value, moments if name.startswith("optimizer.") else layout)
            for name, value in state.tensors().items()
            if name != ACCUMULATED and layout.mine(owner_of(name))
        }
        | {name: Chunk.whole(noted(value)) for name, value in state.of_the_loss().items()},
    )


def _copied(chunks: Mapping[str, Chunk]) -> dict[str, Chunk]:
    return {name: chunk._replace(tensor=chunk.tensor.clone()) for name, chunk in chunks.items()}


def noted(tensor: Tensor) -> Tensor:
    """Return a tensor without its history, in the CPU's memory; where it is cut, it stays so."""
    if isinstance(tensor, SpatialTensor):
        return SpatialTensor(tensor.local.detach().cpu(), tensor.dims, tensor.mesh)
    return tensor.detach().cpu()
