"""One training step, forward and backward, on one worker or under a plan: the same code.

What it leaves behind is what is compared: outputs, loss, gradients of the parameters and of the input, buffers.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.config import RunConfig
from ziggurat.parallel.graph.costs import Costs
from ziggurat.parallel.spatial import SpatialTensor, cut
from ziggurat.parallel.spatial.tensor import add_up, cut_axes
from ziggurat.strategies.data_parallel import DataParallel
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.sharded import ShardedParallel, backward_of_nothing, whole
from ziggurat.verify.losses import Objective, make_objective, tensors_of
from ziggurat.verify.memory import PeakBytes
from ziggurat.verify.precision import KeepFloat64


@dataclass(frozen=True)
class Trial:
    """The step that is taken once by one worker, and once under a plan.

    Attributes:
        images: The whole input, shape ``(B, C, *spatial)``.
        seed: Of the loss; of dropout and drop path, so that every worker draws the masks of the whole.
        num_microbatches: Pieces of the batch, which a plan's dp axis spreads over workers; the last may be smaller.
        config: Its model's name decides on the loss, see `make_objective`; its pipeline on the schedule of stages.
        cut: Layers at which the stages of a plan with pp start.
        costs: By which the calls are placed under a plan with lp.
    """

    images: Tensor
    seed: int = 0
    num_microbatches: int = 1
    config: RunConfig = field(default_factory=RunConfig)
    cut: tuple[str, ...] = ()
    costs: Costs = field(default_factory=dict)

    def pieces(self) -> list[Tensor]:
        """Return the images of each microbatch."""
        return list(self.images.chunk(self.num_microbatches))


@dataclass(frozen=True)
class Piece:
    """What one microbatch leaves behind; under a plan with pp, on the worker of the last and of the first stage.

    Attributes:
        outputs: All tensors that the network returned, in order; spatial tensors where images are cut.
        loss: The microbatch's share, a number.
        input_gradient: Of its images; a spatial tensor where they are cut.
        typical_loss: See `Objective.typical_size`; of a reference only.
    """

    outputs: list[Tensor] | None
    loss: Tensor | None
    input_gradient: Tensor | None
    typical_loss: float = 0.0


@dataclass(frozen=True)
class Step:
    """What one step leaves behind.

    Attributes:
        pieces: By the number of the microbatch: those of this worker.
        gradients: By the parameter's name; zeros where it had none. Of this worker's stages, as the buffers.
        buffers: By name.
        seconds: Of forward and backward, and of the sums over workers.
        peak_bytes: Most bytes of tensors that were alive at once; 0 if they were not counted (under fsdp, which frees
            the memory of tensors that live on).
        bytes_sent: By this worker over the cuts between stages, or over tp.
    """

    pieces: dict[int, Piece]
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]
    seconds: float
    peak_bytes: int
    bytes_sent: int = 0


class OwnLoop:
    """Of `DataParallel`, what a loop of one's own does: one microbatch, and gradients summed over the mesh.

    Args:
        model: Its parameters.
        mesh: The workers.
    """

    def __init__(self, model: nn.Module, mesh: Mesh) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.mesh = mesh
        self.mine = range(1)

    def start(self, num_leaves: int) -> None:
        """Begin a step."""

    @contextmanager
    def leaf(self, index: int) -> Iterator[None]:
        """Run forward and backward."""
        yield

    def finish_gradients(self) -> None:
        """Add up the parts of all workers."""
        if self.mesh.spatial is not None:
            self.mesh.spatial.parameters = self.parameters
            self.mesh.spatial.sum_gradients()
            self.mesh.spatial.parameters = []

    def finish_statistics(self) -> None:
        """Do nothing: the layers have updated their own."""

    def close(self) -> None:
        """Do nothing: the model has no hooks."""


def run_step(model: nn.Module, trial: Trial, mesh: Mesh, count_bytes: bool = False) -> Step:
    """Take one step in training mode, from zero gradients.

    A batch of several microbatches takes the step of ``ziggurat train`` (`DataParallel`); a single one that of a loop
    of one's own; under fsdp both take that of `ShardedParallel`.

    Args:
        model: Its gradients and buffers are changed.
        trial: The step.
        mesh: The workers; of one worker for the reference.
        count_bytes: Whether to count the bytes of tensors, which slows the step.

    Raises:
        UnsupportedOperation: If the network does what cannot run on bands.

    Placement:
        Every worker has the whole input before; after, outputs and the input's gradient are cut, the rest is whole.
    """
    model.train()
    model.zero_grad(set_to_none=True)
    mesh.name_layers(model)
    counts = [len(images) for images in trial.pieces()]
    pieces = {}
    count_bytes = count_bytes and not mesh.is_sharded
    with closing(_join(model, trial, mesh)) as parallel:
        objective = make_objective(model, trial.images.shape, counts, trial.config, trial.seed, mesh)
        memory = PeakBytes([*model.parameters(), *model.buffers()]) if count_bytes else nullcontext()
        begin = time.perf_counter()
        with memory, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the network's own, once for each worker
            parallel.start(len(counts))
            totals = global_totals(objective, len(counts), mesh)
            for index in parallel.mine:
                with parallel.leaf(index):
                    pieces[index] = _run_piece(model, trial, index, objective, totals, mesh)
            if isinstance(parallel, ShardedParallel):
                for _ in range(parallel.num_idle):
                    with parallel.idle():
                        backward_of_nothing(_run_model(model, trial, 0, mesh)[-1])
            parallel.finish_gradients()
            parallel.finish_statistics()
        seconds = time.perf_counter() - begin
    return Step(
        pieces=pieces,
        gradients={
            name: whole(torch.zeros_like(p) if p.grad is None else p.grad)
            for name, p in model.named_parameters()
        },
        buffers={name: buffer.detach().clone() for name, buffer in model.named_buffers()},
        seconds=seconds,
        peak_bytes=memory.peak if isinstance(memory, PeakBytes) else 0,
    )


def global_totals(objective: Objective, num_microbatches: int, mesh: Mesh) -> Tensor:
    """Return what the loss is divided by: every worker draws the targets of all microbatches."""
    totals = torch.stack([objective.normalizers(index) for index in range(num_microbatches)]).sum(0)
    return sum_parts(totals, mesh) if objective.normalizers_are_parts else totals


def sum_parts(part: Tensor, mesh: Mesh) -> Tensor:
    """Return the sum of the parts of the workers that share images."""
    return part if mesh.spatial is None else add_up(part, mesh.spatial, range(len(mesh.spatial.axes)))


def _run_piece(
    model: nn.Module, trial: Trial, index: int, objective: Objective, totals: Tensor, mesh: Mesh
) -> Piece:
    """Run forward and backward of one microbatch; gradients are parts where workers share its images."""
    leaf, given, outputs = _run_model(model, trial, index, mesh)
    loss = objective.loss(outputs, index, totals)
    loss.backward()  # of a spatial tensor: of what every worker has, divided by their number
    share = loss.local.detach() if isinstance(loss, SpatialTensor) else sum_parts(loss.detach(), mesh)
    gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    kept = [detached(output) for output in tensors_of(outputs)]
    typical = objective.typical_size(kept) if mesh.spatial is None else 0.0
    return Piece(kept, share, whole_parts(given, gradient), typical)


def _run_model(model: nn.Module, trial: Trial, index: int, mesh: Mesh) -> tuple[Tensor, Tensor, Any]:
    """Run forward of one microbatch; returns the leaf of its images' gradient, what the model is given, and its outputs."""
    leaf, given = place_images(trial.pieces()[index], mesh)
    torch.manual_seed(trial.seed + index)
    with KeepFloat64():
        return leaf, given, model(given)


def _join(model: nn.Module, trial: Trial, mesh: Mesh) -> DataParallel | OwnLoop | ShardedParallel:
    if mesh.is_sharded:
        with KeepFloat64():
            return ShardedParallel(model, mesh, trial.pieces()[0].shape, trial.config.pipeline.unit_bytes)
    several = len(trial.pieces()) > 1
    return DataParallel(model, mesh.dp, mesh.sp) if several else OwnLoop(model, mesh)


def whole_parts(given: Tensor, gradient: Tensor) -> Tensor:
    """Return the input's gradient; of an extent that is too small to be cut, each worker has a part."""
    if not isinstance(given, SpatialTensor):
        return gradient
    uncut = set(range(len(given.mesh.axes))) - set(cut_axes(given))
    return SpatialTensor(add_up(gradient, given.mesh, sorted(uncut)), given.dims, given.mesh)


def place_images(images: Tensor, mesh: Mesh) -> tuple[Tensor, Tensor]:
    """Return the leaf that receives the input's gradient, and what the network is given."""
    if mesh.spatial is None:
        leaf = images.clone().requires_grad_()
        return leaf, leaf
    bands = cut(images, mesh.spatial)
    leaf = bands.local.clone().requires_grad_()
    return leaf, SpatialTensor(leaf, bands.dims, mesh.spatial)


def _like(tensor: Tensor, local: Tensor) -> Tensor:
    return SpatialTensor(local, tensor.dims, tensor.mesh) if isinstance(tensor, SpatialTensor) else local


def detached(tensor: Tensor) -> Tensor:
    """Return a tensor without its history."""
    return _like(tensor, (tensor.local if isinstance(tensor, SpatialTensor) else tensor).detach())
