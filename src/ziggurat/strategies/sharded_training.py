"""Training with sharded weights: a run's model, average and optimizer, each worker with its rows of every tensor.

    whole model, average, optimizer      on every worker, as one worker makes or resumes them
    shard_units, shard_moments           each worker drops all but its rows
    step, step, ...                      a unit's whole weights while it computes; the optimizer sees rows alone
    whole                                on the first worker, for the export

A step's gradient is this worker's rows of the sum over all workers: norm and clipping take one number of each worker.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ziggurat.config import RunConfig
from ziggurat.parallel.graph.meta import meta_copy
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.sharded import (
    ShardedParallel,
    backward_of_nothing,
    drop_gathered,
    local,
    shard_bytes,
    shard_units,
    whole,
)
from ziggurat.strategies.training import PassWork, Training, Whole, first_not_finite, losses_one_by_one
from ziggurat.strategies.whole_state import Key, fill_whole, state_parts

Compute = Callable[[], AbstractContextManager[Any]]


class ShardedTraining(ShardedParallel, Training):
    """A run's training state, by rows.

    Args:
        state: Whole; its weights are made those of the first worker. Rows of other workers are dropped.
        make_optimizer: Makes one of a whole model.
        mesh: All workers; they call this together.
        config: Of the run.
        compute: A context in which the model computes: autocast.
    """

    survives = False  # it has its rows only

    def __init__(
        self,
        state: Whole,
        make_optimizer: Callable[[Any], torch.optim.Optimizer],
        mesh: Mesh,
        config: RunConfig,
        compute: Compute,
    ) -> None:
        model, average, optimizer = state
        self.state, self.make_optimizer, self.mesh, self.compute = state, make_optimizer, mesh, compute
        train, side = config.train, config.data.crop
        self.shape = (train.batch_size // train.microbatches, 3, side, side)
        self.channels_last = train.channels_last
        self.meta_model = meta_copy(model)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        super().__init__(model, mesh, self.shape, config.pipeline.unit_bytes)
        shard_moments(optimizer, names, dict(model.named_parameters()))
        if average is not model:
            shard_units(average, mesh, self.shape, config.pipeline.unit_bytes)

    def loss_leaves(self, work: PassWork) -> list[Tensor]:
        """Run forward and backward of this worker's microbatches; then keep other workers company.

        Communication:
            As `ShardedParallel`, `num_idle` passes included.
        """
        losses = losses_one_by_one(self.model, self.mine, self.leaf, work)
        for _ in range(self.num_idle):
            with self.idle():
                backward_of_nothing(self._run_blank(self.model))
        return losses

    def output_leaves(self, work: PassWork) -> list[Tensor]:
        """Run forward alone, without gradients; running statistics are taken from the other pass."""
        with torch.no_grad():
            found = [work.vector(work.forward(self.model, place), place) for place in range(work.count)]
            for _ in range(self.num_idle):
                self._run_blank(self.model)
        drop_gathered(self.model)
        return found

    def gradient_norm(self) -> Tensor:
        """Return the norm of the gradient of the whole model, the same on every worker.

        Communication:
            One all-reduce of a number over all workers.
        """
        workers = self.mesh.workers
        norm = nn.utils.get_total_norm(self._gradients())
        square = norm.to(workers.device, torch.float64).square()
        return workers.add_up(square).sqrt().to(norm.dtype)

    def clip(self, max_norm: float, norm: Tensor) -> None:
        """Scale the gradient so that its norm, which is given, is at most `max_norm`; each worker its rows."""
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # as `clip_grads_with_norm_`, which takes no rows
        torch._foreach_mul_(self._gradients(), scale)

    def abandon(self) -> None:
        """Undo what a step that failed has done to the running statistics."""
        self.statistics.abandon()

    def bad_gradient(self) -> str:
        """Return the first parameter with a row, on any worker, whose gradient is not finite; or nothing."""
        held = {name: parameter.grad for name, parameter in self.model.named_parameters()}
        rows = ((name, None if gradient is None else local(gradient)) for name, gradient in held.items())
        bad = set(self.mesh.workers.gather(first_not_finite(rows)))
        return next((name for name in held if name in bad), "")

    def workers_of_loss(self, place: int) -> range:
        """Return the workers that compute the loss for a place of the fsdp axis: all that share its images."""
        return range(place * self.sharing.size, (place + 1) * self.sharing.size)

    def describe(self) -> list[str]:
        """Return a line on what each worker holds."""
        held = [f"{num_bytes / 1e6:.1f}" for num_bytes in self.mesh.workers.gather(shard_bytes(self.model))]
        units = sum(isinstance(module, FSDPModule) for module in self.model.modules())
        return [f"between steps the workers hold {', '.join(held)} MB of weights; gathered in {units} units"]

    def whole(self) -> Whole | None:
        """Return the whole training state on the first worker, elsewhere None.

        Placement:
            Before, each worker has its rows; after, the first has a copy of everything besides, in the CPU's memory.

        Communication:
            One all-gather of each tensor, which all other workers drop at once.
        """
        model, average, optimizer = self.state
        own = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
        parts: dict[Key, Tensor | None] = {}
        for key, value in state_parts(model, average, optimizer, own).items():
            gathered = None if value is None else whole(value)
            if self.mesh.workers.is_first:
                parts[key] = None if gathered is None else gathered.to("cpu", copy=True)
        if not self.mesh.workers.is_first:
            return None
        whole_model = copy.deepcopy(self.meta_model)
        whole_average = whole_model if average is model else copy.deepcopy(self.meta_model)
        return fill_whole(whole_model, whole_average, parts, optimizer, self.make_optimizer)

    def _run_blank(self, model: nn.Module) -> Any:
        images = blank_images(self.shape, self.channels_last, self.mesh)
        with self.compute():
            return model(images)

    def _gradients(self) -> list[Tensor]:
        """Return this worker's rows of every gradient."""
        return [local(p.grad) for p in self.model.parameters() if p.grad is not None]


def blank_images(shape: tuple[int, int, int, int], channels_last: bool, mesh: Mesh) -> Tensor:
    """Return black images, as a model sees them: of a plan with sp, this worker's part of them.

    Args:
        shape: Of the whole images: ``(B, C, H, W)``.
        channels_last: Their memory format.
        mesh: All workers.
    """
    part = mesh.part(*shape[2:])
    height, width = shape[2:] if part is None else (part.tile.height, part.tile.width)
    images = torch.zeros((*shape[:2], height, width), device=mesh.workers.device)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return mesh.spread(images, part)


def shard_moments(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], sharded: Mapping[str, nn.Parameter]
) -> None:
    """Let the optimizer of a whole model have its sharded parameters, and this worker's rows of what it keeps of each.

    Args:
        optimizer: Its state is kept; a number that it keeps of a parameter, such as of its steps, stays as it is.
        names: Of each whole parameter, by its id.
        sharded: Parameters by name.
    """
    before = dict(optimizer.state)
    optimizer.state.clear()
    for group in optimizer.param_groups:
        whole_ones, group["params"] = group["params"], [sharded[names[id(p)]] for p in group["params"]]
        if isinstance(optimizer, torch.optim.SGD):
            group["fused"] = False  # there is no fused one of sharded tensors
        for parameter, rows in zip(whole_ones, group["params"], strict=True):
            for word, value in before.get(parameter, {}).items():
                is_moment = isinstance(value, Tensor) and value.shape == parameter.shape
                optimizer.state[rows][word] = rows_of(value, rows) if is_moment else value


def rows_of(tensor: Tensor, sharded: Tensor) -> Tensor:
    """Return a tensor cut into rows, with memory of its own, like a sharded one of the same shape."""
    rows = torch.zeros_like(sharded, dtype=tensor.dtype, requires_grad=False)
    assert isinstance(rows, DTensor)
    (chunk,) = rows.__create_chunk_list__()
    local(rows).copy_(tensor.narrow(0, min(chunk.offsets[0], len(tensor)), chunk.sizes[0]))
    return rows
