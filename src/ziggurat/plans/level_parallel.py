"""Level parallelism: joins a model to the workers of the lp axis, which compute its parallel branches."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import nn

from ziggurat.errors import UserError
from ziggurat.parallel.levels.measure import measure_calls
from ziggurat.parallel.levels.placement import Placement, place
from ziggurat.parallel.pieces import add_up_in_pieces
from ziggurat.parallel.pipeline.record import ImageSpec, Skeleton
from ziggurat.parallel.workers import Workers
from ziggurat.plans.plan import Plan


def choose_placement(
    model: nn.Module,
    skeleton: Skeleton,
    spec: ImageSpec,
    workers: Workers,
    compute: AbstractContextManager[object],
) -> Placement:
    """Return where each call is computed, balanced by the times which the first worker measures.

    Args:
        model: With all its weights.
        skeleton: Of the model.
        spec: Of the images of a microbatch.
        workers: Of the lp axis; they call this together.
        compute: A context in which the model computes.

    Raises:
        UserError: On all workers: `NoBranches`, or `CannotCut`.

    Communication:
        One broadcast of the placement.
    """
    found: Placement | UserError | None = None
    if workers.is_first:
        try:
            with compute:
                graph = skeleton.record(spec)
                found = place(graph, measure_calls(model, graph, spec), workers.size)
        except UserError as error:
            found = error
    found = workers.share_of_first(found)
    if isinstance(found, UserError):
        raise found
    assert found is not None
    return found


def sum_gradients(model: nn.Module, own: set[str], workers: Workers) -> None:
    """Add up the gradients of what several workers use; a worker keeps those of its own parameters.

    Args:
        model: Its gradients are changed.
        own: Names of the parameters (and buffers) that this worker uses.
        workers: Of the lp axis.

    Communication:
        One gathering of names, then all-reduces of what several workers use.
    """
    of_all = workers.gather(own)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    several = [name for name in parameters if sum(name in names for names in of_all) > 1]
    for name in several:
        if parameters[name].grad is None:
            parameters[name].grad = torch.zeros_like(parameters[name])

    def add_up(part: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(part, group=workers.group)
        return part

    gradients = [parameters[name].grad for name in several]
    add_up_in_pieces((gradient for gradient in gradients if gradient is not None), add_up)


def level_faults(plan: Plan) -> list[str]:
    """Return why a run cannot take a plan."""
    if plan.lp == 1:
        return []
    return [
        f"runs do not take branches on several workers yet: got the plan {plan}; use --plan dp={plan.lp} (ziggurat verify "
        "takes lp)"
    ]
