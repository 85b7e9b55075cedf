"""How far a step under a plan is from the same step on one worker: relative errors.

The error of a tensor is the largest absolute difference, divided by the largest absolute value of the reference. A
gradient that is zero but for rounding has no scale of its own: that of a bias before a batch norm, or of a batch
norm's weight before a depthwise convolution and another batch norm. Therefore the divisor is no smaller than a
thousandth of the largest of all gradients (for a buffer: of all buffers); in fp32 a tenth, as its rounding is coarser
against its bound.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ziggurat.parallel.spatial import SpatialTensor
from ziggurat.parallel.spatial.tensor import slice_local
from ziggurat.strategies.boxes import Box
from ziggurat.strategies.layout import Chunk
from ziggurat.verification.step import Outcome

BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-4}
FLOORS = {torch.float64: 1e-3, torch.float32: 1e-1}  # smallest divisor, as a share of the largest gradient
LARGEST = sys.float_info.max  # stands for an infinite error: JSON knows none


@dataclass(frozen=True)
class Errors:
    """Relative errors of one step.

    Attributes:
        loss: Largest of the losses of all microbatches.
        outputs: Largest of all outputs.
        gradient: Largest of all parameters' gradients.
        worst_parameter: The parameter whose gradient that is; empty if there are no parameters.
        input: Of the input's gradient.
        buffers: Largest of all buffers.
        worst_buffer: The buffer; empty if there are none.
        norm: Of the gradient's norm.
        state: Largest of weights, moving average and moments after the step, each kind by itself.
        worst_state: Its name, such as ``optimizer.stem.weight.exp_avg``.
    """

    loss: float
    outputs: float
    gradient: float
    worst_parameter: str
    input: float
    buffers: float
    worst_buffer: str
    norm: float
    state: float
    worst_state: str

    @property
    def largest(self) -> float:
        """The largest of all."""
        return max(self.loss, self.outputs, self.gradient, self.input, self.buffers, self.norm, self.state)


def relative_error(value: Tensor, reference: Tensor, scale: float | None = None) -> float:
    """Return the largest difference, relative to the largest value of the reference (or to a scale).

    Example:
        >>> relative_error(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 5.0]))
        0.1
    """
    if value.shape != reference.shape:
        return LARGEST
    if value.numel() == 0:
        return 0.0
    difference = float((value.detach().double() - reference.detach().double()).abs().max())
    if difference == 0:
        return 0.0
    scale = largest(reference) if scale is None else scale
    error = difference / scale if scale > 0 else LARGEST
    return error if error < LARGEST else LARGEST  # also where it is not a number


def largest(tensor: Tensor) -> float:
    """Return the largest absolute value; 0 of an empty tensor."""
    return float(tensor.detach().double().abs().max()) if tensor.numel() else 0.0


def worst_of(values: Mapping[str, Chunk], references: Mapping[str, Chunk]) -> tuple[float, str]:
    """Return the largest error of named tensors of one kind, and its name.

    Args:
        values: By name: the box that this worker holds.
        references: All names, whole.

    Example:
        >>> references = {"bias": torch.zeros(2), "weight": torch.tensor([10.0])}
        >>> wholes = {name: Chunk(tensor, (0,)) for name, tensor in references.items()}
        >>> worst_of({"bias": Chunk(torch.tensor([0.25]), (1,)), "weight": Chunk(torch.tensor([10.0]), (0,))}, wholes)
        (0.25, 'bias')
    """
    scales = {name: largest(reference.tensor) for name, reference in references.items()}
    floors = [FLOORS.get(r.tensor.dtype, 0.0) * scales[name] for name, r in references.items()]
    floor = max(floors, default=0.0)
    errors = [
        (_box_error(values[name], reference.tensor, max(floor, scales[name])), name)
        for name, reference in references.items()
        if name in values
    ]
    return max(errors, default=(0.0, ""))


def _box_error(value: Chunk, reference: Tensor, scale: float) -> float:
    """Return the error of a box of a tensor."""
    stop = tuple(start + size for start, size in zip(value.offsets, value.tensor.shape, strict=True))
    box = Box(value.offsets, stop)
    if len(stop) != reference.dim() or box.intersect(Box.of(reference.shape)) != box:
        return LARGEST
    return relative_error(value.tensor, box.of_tensor(reference), scale)


def compare_steps(step: Outcome, reference: Outcome) -> Errors:
    """Return the errors of what this worker holds of a step.

    Args:
        step: Under a plan.
        reference: On one worker.
    """
    gradient, parameter = worst_of(step.gradients, reference.gradients)
    buffers, buffer = worst_of(step.buffers, reference.buffers)
    state, tensor = max(
        (worst_of(values, _of_kind(reference.state, kind)) for kind, values in _kinds(step.state).items()),
        default=(0.0, ""),
    )
    pairs = [(seen, reference.seen[index]) for index, seen in step.seen.items()]
    return Errors(
        loss=_loss_error(step.losses, reference),
        outputs=max((_outputs_error(one.outputs, other.outputs) for one, other in pairs), default=0.0),
        gradient=gradient,
        worst_parameter=parameter,
        input=max(
            (_part_error(one.input_gradient, other.input_gradient) for one, other in pairs), default=0.0
        ),
        buffers=buffers,
        worst_buffer=buffer,
        norm=relative_error(step.norm, reference.norm),
        state=state,
        worst_state=tensor,
    )


def _kinds(state: Mapping[str, Chunk]) -> dict[str, dict[str, Chunk]]:
    """Return a state's tensors by kind: weights, average, and each of the optimizer's words."""
    kinds = dict.fromkeys(_kind(name) for name in state)
    return {kind: _of_kind(state, kind) for kind in kinds}


def _of_kind(state: Mapping[str, Chunk], kind: str) -> dict[str, Chunk]:
    return {name: chunk for name, chunk in state.items() if _kind(name) == kind}


def _kind(name: str) -> str:
    kind = name.partition(".")[0]
    return f"{kind} {name.rpartition('.')[2]}" if kind == "optimizer" else kind


def _loss_error(losses: Tensor, reference: Outcome) -> float:
    """Return the largest error of all microbatches' losses; one that is near 0 because its terms cancel has no scale of its own."""
    if losses.shape != reference.losses.shape:
        return LARGEST
    pairs = zip(losses, reference.losses, strict=True)
    return max(
        (
            relative_error(loss, known, max(largest(known), reference.seen[index].typical_loss))
            for index, (loss, known) in enumerate(pairs)
        ),
        default=0.0,
    )


def _outputs_error(outputs: list[Tensor] | None, references: list[Tensor] | None) -> float:
    if outputs is None:
        return 0.0
    assert references is not None
    if len(outputs) != len(references):
        return LARGEST
    return max((_part_error(o, r) for o, r in zip(outputs, references, strict=True)), default=0.0)


def _part_error(value: Tensor | None, reference: Tensor | None) -> float:
    """Return the error of this worker's part of a tensor, relative to the whole reference."""
    if value is None:
        return 0.0
    assert reference is not None
    if value.shape != reference.shape:
        return LARGEST
    scale = largest(reference)
    if isinstance(value, SpatialTensor):
        return relative_error(value.local, slice_local(reference, value.dims, value.mesh), scale)
    return relative_error(value, reference, scale)


def held_of(step: Outcome) -> set[tuple[str, str | int]]:
    """Return the names of all that this worker holds of a step.

    Under most plans no worker holds all of it; together they hold what the reference has, or the comparison would be blind.
    That they hold every element of each tensor, its layout has made sure of.
    """
    kinds = {"gradient": step.gradients, "buffer": step.buffers, "state": step.state}
    held: set[tuple[str, str | int]] = {(kind, name) for kind, names in kinds.items() for name in names}
    for index, seen in step.seen.items():
        parts = {"outputs": seen.outputs, "input": seen.input_gradient}
        held |= {(kind, index) for kind, part in parts.items() if part is not None}
    return held


def join_errors(errors: list[Errors]) -> Errors:
    """Return the largest errors of all workers."""
    gradient = max(errors, key=lambda e: e.gradient)
    buffers = max(errors, key=lambda e: e.buffers)
    state = max(errors, key=lambda e: e.state)
    return Errors(
        loss=max(e.loss for e in errors),
        outputs=max(e.outputs for e in errors),
        gradient=gradient.gradient,
        worst_parameter=gradient.worst_parameter,
        input=max(e.input for e in errors),
        buffers=buffers.buffers,
        worst_buffer=buffers.worst_buffer,
        norm=max(e.norm for e in errors),
        state=state.state,
        worst_state=state.worst_state,
    )
