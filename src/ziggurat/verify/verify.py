"""Verify a network: one step on one worker, the same step under a plan, and how far they are apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.models.backbone import TIMM_ERRORS
from ziggurat.parallel.launch import WorkerSettings, launch
from ziggurat.parallel.workers import Workers
from ziggurat.verify.check import Check, check_step
from ziggurat.verify.compare import BOUNDS
from ziggurat.verify.networks import build_network
from ziggurat.verify.request import DEFAULT_INPUT, Request, read_request
from ziggurat.verify.step import Objective, RandomWeighting, Step, run_step


def verify(
    name: str,
    shape: str = DEFAULT_INPUT,
    plan: str = "sp=2",
    dtype: str = "fp64",
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Verify as `ziggurat verify` does.

    Args:
        name: The network's.
        shape: The input's, such as ``2x3x256x256``.
        plan: Such as ``sp=2`` or ``sp=2x2``.
        dtype: ``fp64`` or ``fp32``.
        settings: From dotted names to values; ``seed``, ``threads`` and ``model.*`` have an effect.

    Returns:
        The fields of the command's JSON object; None on torchrun's workers but the first.

    Raises:
        UserError: If the input is wrong, or the network does not run on one worker either.
    """
    request = read_request(name, shape, plan, dtype, settings or {})
    return launch(
        verify_on_worker,
        (request,),
        math.prod(request.degrees),
        WorkerSettings(request.threads, "cpu"),
    )


@dataclass(frozen=True)
class Single:
    """The step on one worker, and what it cost.

    Attributes:
        step: What is compared.
        seconds: Of a second step, in which no bytes are counted.
    """

    step: Step
    seconds: float


def verify_on_worker(workers: Workers, request: Request) -> dict[str, Any]:
    """Be one worker of a verification; the first one takes the step alone before, while the others wait."""
    if workers.size != math.prod(request.degrees):
        raise UserError(
            f"the plan {request.plan} needs {math.prod(request.degrees)} workers: got {workers.size}"
        )
    images, objective = draw_images(request), RandomWeighting(request.seed + 1)
    single = None
    if workers.is_first:
        single = _measure_single(build(request), images, objective, request)
    single = workers.share_of_first(single)
    assert single is not None
    model = build(request)
    check = check_step(
        workers, request.degrees, model, images, objective, request.seed, single.step, measure=True
    )
    return describe(request, single, check)


def build(request: Request) -> nn.Module:
    """Build the network from the request's seed."""
    torch.manual_seed(request.seed)
    return build_network(request.name, request.config).to(request.torch_dtype)


def draw_images(request: Request) -> Tensor:
    """Return the input: normally distributed, the same on every worker."""
    generator = torch.Generator().manual_seed(request.seed)
    return torch.randn(request.shape, generator=generator, dtype=torch.float64).to(request.torch_dtype)


def _measure_single(model: nn.Module, images: Tensor, objective: Objective, request: Request) -> Single:
    """Take the reference, and the same step again for its time.

    Raises:
        UserError: If the network does not take the input, or its results are not finite.
    """
    try:
        step = run_step(model, images, objective, request.seed, count_bytes=True)
        seconds = run_step(model, images, objective, request.seed).seconds
    except TIMM_ERRORS as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{request.name} does not take a training step on one worker either, with an input of "
            f"{'x'.join(map(str, request.shape))} ({type(error).__name__}: {error}); give another --input"
        ) from error
    values = [step.loss, step.input_gradient, *step.outputs, *step.gradients.values()]
    if not all(bool(value.isfinite().all()) for value in values):
        raise UserError(
            f"{request.name} gives numbers that are not finite on one worker: they cannot be compared"
        )
    return Single(step, seconds)


def describe(request: Request, single: Single, check: Check) -> dict[str, Any]:
    """Return the fields of the command's JSON object."""
    errors = None if check.errors is None else asdict(check.errors)
    bound = BOUNDS[request.torch_dtype]
    return {
        "ok": check.errors is not None and check.errors.largest <= bound,
        "model": request.name,
        "input": "x".join(str(size) for size in request.shape),
        "dtype": request.dtype,
        "plan": request.plan,
        "world_size": math.prod(request.degrees),
        "bound": bound,
        "loss_error": errors and errors["loss"],
        "output_error": errors and errors["outputs"],
        "gradient_error": errors and errors["gradient"],
        "worst_parameter": errors and errors["worst_parameter"],
        "input_error": errors and errors["input"],
        "buffer_error": errors and errors["buffers"],
        "worst_buffer": errors and errors["worst_buffer"],
        "single": {"step_seconds": single.seconds, "peak_bytes": single.step.peak_bytes},
        "workers": None
        if errors is None
        else {"step_seconds": check.seconds, "peak_bytes": check.peak_bytes},
        "communication_bytes": check.communication_bytes,
        "gathers": [
            {"layer": layer, "operation": operation, "bytes": size}
            for (layer, operation), size in sorted(check.gathers.items(), key=lambda item: -item[1])
        ],
        "unsupported": check.unsupported,
    }
