"""One training step, forward and backward, on one worker or on the bands of several: the same code.

What it leaves behind is what is compared: outputs, loss, gradients of the parameters and of the input, buffers.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.parallel.spatial import SpatialMesh, SpatialTensor, cut
from ziggurat.verify.memory import PeakBytes
from ziggurat.verify.precision import KeepFloat64

Objective = Callable[[list[Tensor]], Tensor]
"""From all outputs of a network to the loss, a number."""


@dataclass(frozen=True)
class Step:
    """What one step leaves behind.

    Attributes:
        outputs: All tensors that the network returned, in order; spatial tensors under a plan.
        loss: A number.
        gradients: By the parameter's name; zeros where it had none.
        input_gradient: Of the images; a spatial tensor under a plan.
        buffers: By name.
        seconds: Of forward and backward.
        peak_bytes: Most bytes of tensors that were alive at once; 0 if they were not counted.
    """

    outputs: list[Tensor]
    loss: Tensor
    gradients: dict[str, Tensor]
    input_gradient: Tensor
    buffers: dict[str, Tensor]
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class RandomWeighting:
    """A loss for any network: the sum of all its outputs, each number with a random weight of its own.

    Attributes:
        seed: Of the weights, which depend on it and on the outputs' shapes alone.
    """

    seed: int

    def __call__(self, outputs: list[Tensor]) -> Tensor:
        """Return the weighted sum of all outputs that are not integers, divided by the root of their number."""
        generator = torch.Generator().manual_seed(self.seed)
        terms = []
        for output in outputs:
            if output.is_floating_point():
                weights = torch.randn(tuple(output.shape), generator=generator, dtype=torch.float64)
                scale = max(1, weights.numel()) ** -0.5
                terms.append((output * (weights * scale).to(output.device, output.dtype)).sum())
        return torch.stack(terms).sum() if len(terms) > 1 else terms[0]


def tensors_of(outputs: Any) -> Iterator[Tensor]:
    """Yield the tensors of what a network returned: a tensor, a record, or containers of such, in order."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from tensors_of(value)
    elif isinstance(outputs, (list, tuple)):
        for value in outputs:
            yield from tensors_of(value)
    elif dataclasses.is_dataclass(outputs):
        for item in dataclasses.fields(outputs):
            yield from tensors_of(getattr(outputs, item.name))


def run_step(
    model: nn.Module,
    images: Tensor,
    objective: Objective,
    seed: int,
    mesh: SpatialMesh | None = None,
    count_bytes: bool = False,
) -> Step:
    """Take one step in training mode, from zero gradients.

    Args:
        model: Its gradients and buffers are changed.
        images: The whole input, shape ``(B, C, *spatial)``.
        objective: The loss.
        seed: Of dropout and drop path: every worker draws the masks of the whole.
        mesh: Cuts the images; None runs on this worker alone.
        count_bytes: Whether to count the bytes of tensors, which slows the step.

    Raises:
        UnsupportedOperation: If the network does what cannot run on bands.

    Placement:
        Every worker has the whole input before; after, outputs and the input's gradient are cut, the rest is whole.
    """
    model.train()
    model.zero_grad(set_to_none=True)
    leaf, given = _place(images, mesh)
    torch.manual_seed(seed)
    present = [leaf, *model.parameters(), *model.buffers()]
    memory = PeakBytes(present) if count_bytes else nullcontext()
    begin = time.perf_counter()
    with memory, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the network's own, once for each worker
        with KeepFloat64():
            outputs = list(tensors_of(model(given)))
        loss = objective(outputs)
        loss.backward()
    seconds = time.perf_counter() - begin
    return Step(
        outputs=[_detached(output) for output in outputs],
        loss=_local(loss).detach(),
        gradients={
            name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()
        },
        input_gradient=_like(given, torch.zeros_like(leaf) if leaf.grad is None else leaf.grad),
        buffers={name: buffer.detach().clone() for name, buffer in model.named_buffers()},
        seconds=seconds,
        peak_bytes=memory.peak if isinstance(memory, PeakBytes) else 0,
    )


def _place(images: Tensor, mesh: SpatialMesh | None) -> tuple[Tensor, Tensor]:
    """Return the leaf that receives the input's gradient, and what the network is given."""
    if mesh is None:
        leaf = images.clone().requires_grad_()
        return leaf, leaf
    bands = cut(images, mesh)
    leaf = bands.local.clone().requires_grad_()
    return leaf, SpatialTensor(leaf, bands.dims, mesh)


def _local(tensor: Tensor) -> Tensor:
    return tensor.local if isinstance(tensor, SpatialTensor) else tensor


def _like(tensor: Tensor, local: Tensor) -> Tensor:
    return SpatialTensor(local, tensor.dims, tensor.mesh) if isinstance(tensor, SpatialTensor) else local


def _detached(tensor: Tensor) -> Tensor:
    return _like(tensor, _local(tensor).detach())
