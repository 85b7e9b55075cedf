"""Verify a network: one step on one worker, the same step under a plan, and how far they are apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.models.backbone import TIMM_ERRORS
from ziggurat.parallel.collectives.sent import Sent
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.generators import key_others
from ziggurat.parallel.runtime.heartbeat import phase
from ziggurat.parallel.runtime.launch import WorkerSettings, launch, world_from_environment
from ziggurat.runs.progress import Stages
from ziggurat.strategies.estimate import StepCost
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.resolve import resolve_device_of
from ziggurat.strategies.shares import Shares
from ziggurat.verification.check import Check, check_step
from ziggurat.verification.compare import BOUNDS, compare_steps
from ziggurat.verification.errors import Errors, name_of
from ziggurat.verification.handing import hand_out
from ziggurat.verification.judgement import Judgement, judge
from ziggurat.verification.networks import build_network
from ziggurat.verification.request import DEFAULT_INPUT, Request, read_request
from ziggurat.verification.rounding import measure_rounding
from ziggurat.verification.step import Cost, Outcome, Trial, as_it_is, watch_step
from ziggurat.verification.timeline import measure_bubble, write_timeline


def verify(
    name: str,
    shape: str = DEFAULT_INPUT,
    plan: str = "sp=2",
    dtype: str = "fp64",
    settings: Mapping[str, Any] | None = None,
    timeline: str | None = None,
) -> dict[str, Any] | None:
    """Verify as `ziggurat verify` does.

    Args:
        name: The network's.
        shape: The input's, such as ``2x3x256x256``.
        plan: Such as ``sp=2``, ``sp=2x2``, ``dp=2``, ``pp=2`` or ``dp=2,sp=2,pp=2``.
        dtype: ``fp64`` or ``fp32``.
        settings: From dotted names to values; ``seed``, ``device``, ``threads``, ``train.*``, ``pipeline.*``, ``tensor.*``,
            ``model.*``, ``loss.*`` and ``launch.*`` have an effect.
        timeline: A file for the trace of a plan with pp; a picture of it is written beside.

    Returns:
        The fields of the command's JSON object; None on torchrun's workers but the first.

    Raises:
        UserError: If the input is wrong, or the network does not run on one worker either.
    """
    request = read_request(name, shape, plan, dtype, settings or {}, timeline)
    config = request.config
    device = resolve_device_of(request.plan, config, world_from_environment())
    place = WorkerSettings(config.threads, device, config.launch)
    return launch(verify_on_worker, (request,), request.plan.num_workers, place)


@dataclass(frozen=True)
class Single:
    """The step on one worker, and what it cost.

    Attributes:
        step: What is compared.
        cost: Its cost.
        repeated: Errors of the same step again: what is not zero there is not deterministic.
        seconds: Of the repeated step, in which no bytes are counted.
    """

    step: Outcome
    cost: Cost
    repeated: Errors
    seconds: float


def verify_on_worker(
    workers: Workers, request: Request, progress: Callable[[str, bool], Stages] = Stages
) -> dict[str, Any]:
    """Be one worker of a verification; the first one takes the step alone before, while the others wait.

    Args:
        workers: As many as the plan has.
        request: What is verified.
        progress: Makes what says how far it is, from what is done and whether this worker speaks.
    """
    if workers.size != request.plan.num_workers:
        raise UserError(
            f"the plan {request.plan} needs {request.plan.num_workers} workers: got {workers.size}; change --plan or "
            "--nproc-per-node"
        )
    trial = Trial(draw_images(request), request.config.seed, request.num_microbatches, request.config)
    with progress(f"verify {request.name}", workers.is_first) as stages:
        phase("reference")
        single = _measure_single(trial, request, workers.device, stages) if workers.is_first else None
        single = hand_out(workers, single)
        phase("step under the plan")
        stages(f"the step under {request.plan}")
        check = check_step(workers, str(request.plan), build(request), trial, single.step, measure=True)
        phase("reference")
        judgement = _judge(request, trial, single, check, workers, stages)
    result = describe(request, single, check, judgement, workers.device.type)
    if workers.is_first and request.timeline is not None and check.spans:
        _write_timeline(request.timeline, request, check, result)
    return result


def _judge(
    request: Request,
    trial: Trial,
    single: Single,
    check: Check,
    workers: Workers,
    begins: Callable[[str], None],
) -> tuple[Judgement, Errors | None] | None:
    """Return the verdict, and what rounding does where that was asked; None where nothing was compared, or on other workers."""
    if check.errors is None or not workers.is_first:
        return None
    bound, rounding = BOUNDS[request.torch_dtype], None
    if check.errors.above(bound):
        begins("the step on one worker, rounded otherwise")
        rounding = measure_rounding(lambda: build(request), trial, single.step, workers.device)
    return judge(check.errors, single.repeated, rounding, bound), rounding


def _write_timeline(path: Path, request: Request, check: Check, result: dict[str, Any]) -> None:
    bubble = result["bubble"]
    title = (
        f"{request.name}, {request.plan}, {result['schedule']}, {request.num_microbatches} microbatches: bubble "
        f"{bubble['measured']:.2f} measured, {bubble['simulated']:.2f} of these durations without messages, "
        f"{bubble['balanced']:.2f} of equal stages"
    )
    result["timeline"] = [str(path), str(write_timeline(path, check.spans, check.labels, title))]


def build(request: Request) -> nn.Module:
    """Build the network from the request's seed."""
    torch.manual_seed(request.config.seed)
    key_others()
    return build_network(request.name, request.config.model).to(request.torch_dtype)


def draw_images(request: Request) -> Tensor:
    """Return the input: normally distributed, the same on every worker."""
    generator = torch.Generator().manual_seed(request.config.seed)
    return torch.randn(request.shape, generator=generator, dtype=torch.float64).to(request.torch_dtype)


def _measure_single(
    trial: Trial, request: Request, device: torch.device, begins: Callable[[str], None]
) -> Single:
    """Take the reference, and the same step again, unchanged: for its time, and to see whether it is the same.

    Args:
        trial: The step.
        request: Names the network.
        device: Where it is taken.
        begins: Called as a part of it begins, with a word for it.

    Raises:
        UserError: If the network does not take the input, or its results are not finite.
    """
    mesh = make_mesh(Workers(device=device))
    begins("the step on one worker")
    try:
        step, cost = watch_step(build(request), trial, mesh, as_it_is, count_bytes=True)
    except TIMM_ERRORS as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{request.name} does not take a training step on one worker either, with an input of "
            f"{'x'.join(map(str, request.shape))} ({type(error).__name__}: {error}); give another --input"
        ) from error
    _check_finite(step, request.name)
    begins("the same step again")
    repeated, again = watch_step(build(request), trial, mesh, lambda other: compare_steps(other, step))
    return Single(step, cost, repeated, again.seconds)


def _check_finite(step: Outcome, name: str) -> None:
    values = [
        step.norm,
        step.losses,
        *(chunk.tensor for chunk in (*step.gradients.values(), *step.state.values())),
    ]
    for seen in step.seen.values():
        values += [t for t in (seen.input_gradient, *(seen.outputs or ())) if t is not None]
    if not all(bool(value.isfinite().all()) for value in values):
        raise UserError(f"{name} gives numbers that are not finite on one worker: they cannot be compared")


def estimate(request: Request, single: Single) -> dict[str, float]:
    """Return what a step under the plan would cost a worker, by rule of thumb from the step on one."""
    step = single.step
    state = sum(chunk.tensor.nbytes for chunk in step.state.values())
    gradients = sum(chunk.tensor.nbytes for chunk in step.gradients.values())
    kept = state - single.cost.weight_bytes + gradients
    alone = StepCost(
        single.seconds, request.num_microbatches, single.cost.weight_bytes, kept,
        max(0, single.cost.peak_bytes - single.cost.weight_bytes - kept),
    )  # fmt: skip
    cost = request.plan.estimate(alone)
    return {"step_seconds": cost.seconds, "peak_bytes": round(cost.peak_bytes)}


def describe(
    request: Request,
    single: Single,
    check: Check,
    judged: tuple[Judgement, Errors | None] | None,
    device: str,
) -> dict[str, Any]:
    """Return the fields of the command's JSON object."""
    errors = None if check.errors is None else check.errors.summary()
    judgement, rounding = judged or (None, None)
    bound = BOUNDS[request.torch_dtype]
    facts = check.facts
    bubble = None
    if check.spans:
        shares = Shares.read(request.config.pipeline.shares)
        parts = shares.parts(request.num_microbatches, request.plan.num_data)
        bubble = measure_bubble(check.spans, facts["schedule"], facts["workers"], parts)
    return {
        "ok": check.errors is not None and check.errors.largest <= bound,
        "model": request.name,
        "input": "x".join(str(size) for size in request.shape),
        "dtype": request.dtype,
        "device": device,
        "plan": str(request.plan),
        "microbatches": request.num_microbatches,
        "world_size": request.plan.num_workers,
        "bound": bound,
        "loss_error": errors and errors["loss"],
        "output_error": errors and errors["outputs"],
        "gradient_error": errors and errors["gradient"],
        "worst_parameter": errors and errors["worst_parameter"],
        "input_error": errors and errors["input"],
        "buffer_error": errors and errors["buffers"],
        "worst_buffer": errors and errors["worst_buffer"],
        "norm_error": errors and errors["norm"],
        "state_error": errors and errors["state"],
        "worst_state": errors and errors["worst_state"],
        "verdict": judgement.verdict if judgement else "unsupported",
        "why": judgement.why if judgement else "",
        "rounding_error": rounding and rounding.largest,
        "nondeterministic": [
            {"tensor": name_of(key), "error": error} for key, error in single.repeated.above(0.0).items()
        ],
        "single": {"step_seconds": single.seconds, "peak_bytes": single.cost.peak_bytes},
        "workers": None
        if errors is None
        else {"step_seconds": check.seconds, "peak_bytes": check.peak_bytes},
        "estimate": estimate(request, single),
        "weight_bytes": list(check.weight_bytes),
        "communication_bytes": check.communication_bytes,
        "exchange": _exchange(check),
        "gathers": [
            {"layer": layer, "operation": operation, "bytes": size}
            for (layer, operation), size in sorted(check.gathers.items(), key=lambda item: -item[1])
        ],
        "unsupported": check.unsupported,
        "schedule": facts.get("schedule"),
        "stages": facts.get("stages", []),
        "splits": facts.get("splits", []),
        "min_width": facts.get("min_width"),
        "bubble": bubble and asdict(bubble),
        "branches": facts.get("branches"),
    }


def _exchange(check: Check) -> dict[str, Any] | None:
    """Return what the worker that sent most has sent for the sums over samples in a step, in all and by tier; None without such sums."""
    if not check.exchange:
        return None
    tiers = [{"workers": size, **asdict(sent)} for size, sent in check.exchange]
    return {**asdict(sum((sent for _, sent in check.exchange), Sent())), "tiers": tiers}
