"""The same step under a plan, held against its reference, on every worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from ziggurat.parallel.spatial import UnsupportedOperation, spatial_mesh
from ziggurat.parallel.workers import Workers
from ziggurat.verify.compare import Errors, compare_steps, join_errors
from ziggurat.verify.step import Objective, Step, run_step

REMEDY = "run the model without sp, replace the layer, or declare the operation with ziggurat.parallel.spatial.declare"


@dataclass(frozen=True)
class Check:
    """What came of a step under a plan.

    Attributes:
        errors: Largest of all workers; None where the network cannot run under the plan.
        unsupported: Each with ``operation``, ``layer``, ``reason`` and ``remedy``.
        seconds: Of the slowest worker's step.
        peak_bytes: Of the worker that held most; 0 if they were not counted.
        communication_bytes: Sent by all workers together.
        gathers: Bytes that the worker which received most has received, by layer and operation.
    """

    errors: Errors | None
    unsupported: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0
    communication_bytes: int = 0
    gathers: Mapping[tuple[str, str], int] = field(default_factory=dict)


def check_step(
    workers: Workers,
    degrees: tuple[int, ...],
    model: nn.Module,
    images: Tensor,
    objective: Objective,
    seed: int,
    reference: Step,
    measure: bool = False,
) -> Check:
    """Take the step of a reference on the bands of several workers, and compare.

    Args:
        workers: As many as the product of the degrees; all of them call this.
        degrees: Workers along each spatial dim.
        model: The same weights as the reference's had before its step; changed.
        images: The whole input.
        objective: The reference's loss.
        seed: The reference's.
        reference: The step on one worker.
        measure: Whether to count the bytes of tensors, and to take the step again for its time (without counting).

    Returns:
        The same on every worker.
    """
    mesh = spatial_mesh(workers, degrees)
    mesh.names.update({id(module): name for name, module in model.named_modules()})
    mesh.parameters[:] = list(model.parameters())
    try:
        step = run_step(model, images, objective, seed, mesh, count_bytes=measure)
    except UnsupportedOperation as error:
        facts = {"operation": error.operation, "layer": error.layer, "reason": error.reason, "remedy": REMEDY}
        return Check(None, [facts])
    sent = sum(axis.traffic.bytes_sent for axis in mesh.axes)
    gathers = dict(mesh.gathers)
    errors = compare_steps(step, reference)
    seconds = run_step(model, images, objective, seed, mesh).seconds if measure else step.seconds
    of_all = workers.gather((errors, seconds, step.peak_bytes, sent, gathers))
    return Check(
        errors=join_errors([errors for errors, *_ in of_all]),
        seconds=max(seconds for _, seconds, *_ in of_all),
        peak_bytes=max(peak for _, _, peak, *_ in of_all),
        communication_bytes=sum(sent for *_, sent, _ in of_all),
        gathers=max((gathers for *_, gathers in of_all), key=lambda g: sum(g.values())),
    )
