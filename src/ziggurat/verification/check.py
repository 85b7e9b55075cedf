"""The same step under a plan, held against its reference, on every worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ziggurat.parallel.collectives.sent import Sent
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.pipeline.timing import Span
from ziggurat.parallel.spatial import UnsupportedOperation
from ziggurat.strategies.mesh import make_mesh
from ziggurat.verification.compare import compare_steps, held_of
from ziggurat.verification.errors import Errors, join_errors
from ziggurat.verification.step import Outcome, Trial, watch_step


@dataclass(frozen=True)
class Check:
    """What came of a step under a plan.

    Attributes:
        errors: Largest of all workers; None where the network cannot run under the plan.
        unsupported: Each with ``operation``, ``layer``, ``line``, ``reason`` and ``remedy``.
        seconds: Of the slowest worker's step.
        peak_bytes: Of the worker that held most; 0 if they were not counted.
        weight_bytes: Of the parameters that each worker holds between steps.
        communication_bytes: Sent by all workers together, but for the sums over samples: None where a plan spreads these.
        exchange: What the worker that sent most has sent for the sums over samples, by tier, the innermost first, with the workers
            that meet there; none where a plan does not spread them.
        gathers: Bytes that the worker which received most has received, by layer and operation.
        facts: What the axes say of how the network lies on them: stages, branches, what is split.
        spans: Under a plan with stages, what each worker did in the step that was timed.
        labels: Names of the workers, with their places.
    """

    errors: Errors | None
    unsupported: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0
    weight_bytes: tuple[int, ...] = ()
    communication_bytes: int | None = None
    exchange: tuple[tuple[int, Sent], ...] = ()
    gathers: Mapping[tuple[str, str], int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    spans: tuple[tuple[Span, ...], ...] = ()
    labels: tuple[str, ...] = ()


def check_step(
    workers: Workers, plan: str, model: nn.Module, trial: Trial, reference: Outcome, measure: bool = False
) -> Check:
    """Take the step of a reference under a plan, and compare.

    Args:
        workers: As many as the plan has; all of them call this.
        plan: Where each piece is computed.
        model: The same weights as the reference's had before its step; changed.
        trial: The reference's.
        reference: The step on one worker.
        measure: Whether to count the bytes of tensors, and to take another step for its time (without counting).

    Returns:
        The same on every worker.

    Raises:
        UnsupportedOperation: In a layer that other workers do not compute, which wait for what this one would send.
    """
    mesh = make_mesh(workers, plan, trial.config.launch.hierarchy)
    try:
        (errors, held), cost = watch_step(
            model, trial, mesh, lambda step: (compare_steps(step, reference), held_of(step)), measure, measure
        )
    except UnsupportedOperation as error:
        if any(one.takes_turns for one in mesh.strategies):
            raise
        mesh.close()
        names = ("operation", "layer", "line", "reason", "remedy")
        return Check(None, [{name: getattr(error, name) for name in names}])
    of_all = workers.gather((errors, cost.seconds, cost.peak_bytes, cost.bytes_sent, cost.gathers))
    exchanges = workers.gather(cost.exchange)
    missing = held_of(reference).difference(*workers.gather(held))
    if missing:
        raise RuntimeError(f"no worker holds {sorted(map(str, missing))} of the step under {plan}")
    weight_bytes = tuple(workers.gather(cost.weight_bytes))
    spans = tuple(workers.gather(cost.spans))
    labels = tuple(map(mesh.topology.label, range(workers.size)))
    mesh.close()
    return Check(
        errors=join_errors([errors for errors, *_ in of_all]),
        seconds=max(seconds for _, seconds, *_ in of_all),
        peak_bytes=max(peak for _, _, peak, *_ in of_all),
        weight_bytes=weight_bytes,
        communication_bytes=sum(sent for *_, sent, _ in of_all) if mesh.plan.num_data == 1 else None,
        exchange=max(exchanges, key=lambda tiers: sum((sent for _, sent in tiers), Sent())),
        gathers=max((gathers for *_, gathers in of_all), key=lambda g: sum(g.values())),
        facts=cost.facts,
        spans=spans if any(spans) else (),
        labels=labels,
    )
