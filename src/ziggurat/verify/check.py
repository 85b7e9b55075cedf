"""The same step under a plan, held against its reference, on every worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import nn

from ziggurat.parallel.branches.placement import Placement
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.pipeline.balance import StageCost
from ziggurat.parallel.pipeline.timing import Span, Trace
from ziggurat.parallel.spatial import UnsupportedOperation
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.sharded import shard_bytes
from ziggurat.strategies.tensor_parallel import Split
from ziggurat.verify.compare import Errors, compare_steps, held_of, join_errors
from ziggurat.verify.pipeline_step import cut_model, place_branches, run_pipeline_step
from ziggurat.verify.step import Step, Trial, run_step
from ziggurat.verify.tensor_step import run_tensor_step, split_model

REMEDY = "run the model without sp, replace the layer, or declare the operation with ziggurat.parallel.spatial.declare"


@dataclass(frozen=True)
class Check:
    """What came of a step under a plan.

    Attributes:
        errors: Largest of all workers; None where the network cannot run under the plan.
        unsupported: Each with ``operation``, ``layer``, ``reason`` and ``remedy``.
        seconds: Of the slowest worker's step.
        peak_bytes: Of the worker that held most; 0 if they were not counted.
        weight_bytes: Of the parameters that each worker holds between steps.
        communication_bytes: Sent within the spatial and tensor axes and over the cuts between stages by all workers together; None
            where a plan has dp, whose bytes are not counted.
        gathers: Bytes that the worker which received most has received, by layer and operation.
        stages: Under a plan with pp, what each costs.
        spans: Under a plan with pp, what each worker did in the step that was timed.
        placement: Under a plan with lp, where the calls were computed.
        splits: Under a plan with tp, what is split.
    """

    errors: Errors | None
    unsupported: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0
    weight_bytes: tuple[int, ...] = ()
    communication_bytes: int | None = None
    gathers: Mapping[tuple[str, str], int] = field(default_factory=dict)
    stages: tuple[StageCost, ...] = ()
    spans: tuple[tuple[Span, ...], ...] = ()
    placement: Placement | None = None
    splits: tuple[Split, ...] = ()


def check_step(
    workers: Workers, plan: str, model: nn.Module, trial: Trial, reference: Step, measure: bool = False
) -> Check:
    """Take the step of a reference under a plan, and compare.

    Args:
        workers: As many as the plan has; all of them call this.
        plan: Where each piece is computed.
        model: The same weights as the reference's had before its step; changed.
        trial: The reference's.
        reference: The step on one worker.
        measure: Whether to count the bytes of tensors, and to take the step again for its time (without counting).

    Returns:
        The same on every worker.
    """
    mesh = make_mesh(workers, plan)
    take: Callable[..., Step] = run_step
    stages, placement, splits = tuple[StageCost, ...](), None, tuple[Split, ...]()
    if mesh.lp.size > 1:
        take = run_pipeline_step
        trial, placement = place_branches(model, trial, mesh)
    if mesh.tp.size > 1:
        tensor = split_model(model, trial, mesh)
        take, splits = partial(run_tensor_step, tensor), tuple(tensor.splits)
    if mesh.pp.size > 1:
        take = run_pipeline_step
        trial, stages = cut_model(model, trial, mesh)
    try:
        step = take(model, trial, mesh, count_bytes=measure)
    except UnsupportedOperation as error:
        mesh.close()
        facts = {"operation": error.operation, "layer": error.layer, "reason": error.reason, "remedy": REMEDY}
        return Check(None, [facts])
    sent = step.bytes_sent + (sum(a.traffic.bytes_sent for a in mesh.spatial.axes) if mesh.spatial else 0)
    gathers = dict(mesh.spatial.gathers) if mesh.spatial else {}
    errors = compare_steps(step, reference)
    seconds, trace = step.seconds, Trace(workers.device)
    if measure and stages:
        seconds = run_pipeline_step(model, trial, mesh, trace=trace).seconds
    elif measure:
        seconds = take(model, trial, mesh).seconds
    of_all = workers.gather((errors, seconds, step.peak_bytes, sent, gathers))
    missing = held_of(reference).difference(*workers.gather(held_of(step)))
    if missing:
        raise RuntimeError(f"no worker holds {sorted(map(str, missing))} of the step under {plan}")
    weight_bytes = tuple(workers.gather(shard_bytes(model)))
    mesh.close()
    return Check(
        errors=join_errors([errors for errors, *_ in of_all]),
        seconds=max(seconds for _, seconds, *_ in of_all),
        peak_bytes=max(peak for _, _, peak, *_ in of_all),
        weight_bytes=weight_bytes,
        communication_bytes=sum(sent for *_, sent, _ in of_all) if mesh.dp.size == 1 else None,
        gathers=max((gathers for *_, gathers in of_all), key=lambda g: sum(g.values())),
        stages=stages,
        spans=tuple(workers.gather(tuple(trace.spans))) if measure and stages else (),
        placement=placement,
        splits=splits,
    )
