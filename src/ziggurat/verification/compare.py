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

import torch
from torch import Tensor

from ziggurat.parallel.spatial import SpatialTensor
from ziggurat.parallel.spatial.tensor import slice_local
from ziggurat.strategies.boxes import Box
from ziggurat.strategies.layout import Chunk
from ziggurat.verification.errors import Errors, Kind
from ziggurat.verification.step import Outcome

BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-4}
FLOORS = {torch.float64: 1e-3, torch.float32: 1e-1}  # smallest divisor, as a share of the largest gradient
LARGEST = sys.float_info.max  # stands for an infinite error: JSON knows none


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
    difference = largest(value.detach().double() - reference.detach().double())
    if difference == 0:
        return 0.0
    scale = largest(reference) if scale is None else scale
    error = difference / scale if scale > 0 else LARGEST
    return error if error < LARGEST else LARGEST  # also where it is not a number


def largest(tensor: Tensor) -> float:
    """Return the largest absolute value; 0 of an empty tensor."""
    if not tensor.numel():
        return 0.0
    values = tensor.detach() if tensor.is_floating_point() else tensor.detach().double()
    low, high = map(float, torch.aminmax(values))  # in a third of the time that `abs` takes
    return max(-low, high)


def errors_of(values: Mapping[str, Chunk], references: Mapping[str, Chunk]) -> dict[str, float]:
    """Return the errors of named tensors of one kind.

    Args:
        values: By name: the box that this worker holds.
        references: All names, whole.

    Example:
        >>> references = {"bias": torch.zeros(2), "weight": torch.tensor([10.0])}
        >>> wholes = {name: Chunk(tensor, (0,)) for name, tensor in references.items()}
        >>> errors_of({"bias": Chunk(torch.tensor([0.25]), (1,)), "weight": Chunk(torch.tensor([10.0]), (0,))}, wholes)
        {'bias': 0.25, 'weight': 0.0}
    """
    scales = {name: largest(reference.tensor) for name, reference in references.items()}
    floors = [FLOORS.get(r.tensor.dtype, 0.0) * scales[name] for name, r in references.items()]
    floor = max(floors, default=0.0)
    return {
        name: _box_error(values[name], reference.tensor, max(floor, scales[name]))
        for name, reference in references.items()
        if name in values
    }


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
    found: dict[tuple[Kind, str], float] = {("norm", ""): relative_error(step.norm, reference.norm)}
    for name, error in errors_of(step.gradients, reference.gradients).items():
        found["gradient", name] = error
    for name, error in errors_of(step.buffers, reference.buffers).items():
        found["buffers", name] = error
    for one, values in _kinds(step.state).items():
        for name, error in errors_of(values, _of_kind(reference.state, one)).items():
            found["state", name] = error
    found |= {("loss", str(index)): error for index, error in enumerate(_loss_errors(step.losses, reference))}
    for index, seen in step.seen.items():
        known = reference.seen[index]
        found["input", str(index)] = _part_error(seen.input_gradient, known.input_gradient)
        for number, error in enumerate(_output_errors(seen.outputs, known.outputs)):
            found["outputs", f"{index}.{number}"] = error
    return Errors(found)


def _kinds(state: Mapping[str, Chunk]) -> dict[str, dict[str, Chunk]]:
    """Return a state's tensors by kind: weights, average, and each of the optimizer's words."""
    kinds = dict.fromkeys(_kind(name) for name in state)
    return {kind: _of_kind(state, kind) for kind in kinds}


def _of_kind(state: Mapping[str, Chunk], kind: str) -> dict[str, Chunk]:
    return {name: chunk for name, chunk in state.items() if _kind(name) == kind}


def _kind(name: str) -> str:
    kind = name.partition(".")[0]
    return f"{kind} {name.rpartition('.')[2]}" if kind == "optimizer" else kind


def _loss_errors(losses: Tensor, reference: Outcome) -> list[float]:
    """Return the errors of all microbatches' losses; one that is near 0 because its terms cancel has no scale of its own."""
    if losses.shape != reference.losses.shape:
        return [LARGEST]
    pairs = zip(losses, reference.losses, strict=True)
    return [
        relative_error(loss, known, max(largest(known), reference.seen[index].typical_loss))
        for index, (loss, known) in enumerate(pairs)
    ]


def _output_errors(outputs: list[Tensor] | None, references: list[Tensor] | None) -> list[float]:
    if outputs is None:
        return []
    assert references is not None
    if len(outputs) != len(references):
        return [LARGEST]
    return [_part_error(one, other) for one, other in zip(outputs, references, strict=True)]


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
