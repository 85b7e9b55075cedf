"""From what the user asks to the plans, best first, with what they cost and why others are refused."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from ziggurat.errors import UserError
from ziggurat.parallel.collectives.wire import WIRES
from ziggurat.planning.judging import Judge
from ziggurat.planning.large import HIERARCHY, LargeJudge, not_looked_at, with_tiers
from ziggurat.planning.noise import noise_of_run
from ziggurat.planning.request import PlanRequest
from ziggurat.planning.search import Candidate, Found, Judged, Refused, candidates_of, savers_of, search
from ziggurat.strategies.plan import Plan
from ziggurat.strategies.wires import wire_fault
from ziggurat.verification.timeline import write_timeline


def find_plans(
    request: PlanRequest,
    judge: Judge | LargeJudge,
    measure: Callable[[Candidate], float],
    begins: Callable[[str], None] = lambda what: None,
) -> tuple[Found, dict[str, Any]]:
    """Return the plans for a request, and the fields of the command's JSON object.

    Args:
        request: What is asked for.
        judge: Simulates a step under a plan.
        measure: Takes a step under a plan, and returns its seconds.
        begins: Called as a part of it begins, with a word for it.

    Raises:
        UserError: If the network does not take a step of these images on one worker either.
    """
    begin = time.monotonic()
    begins("the step of one worker")
    alone = judge.alone(Candidate(Plan()))
    if isinstance(alone, str):
        raise UserError(f"{request.name} does not take a step on one worker either: {alone}")
    fixed = request.fixed or {}
    left_out: Counter[str] = Counter()
    reasons = not_looked_at(request.num_workers) if request.is_large else {}

    def is_looked_at(plan: Plan) -> bool:
        reason = next((why for why, is_meant in reasons.items() if is_meant(plan)), None)
        if reason is not None:
            left_out[reason] += 1
        return reason is None

    taken, by_rule = candidates_of(
        request.num_workers, len(request.shape) - 2, fixed, request.check, is_looked_at
    )
    if request.is_large:
        taken = [one for each in taken for one in with_tiers(each, request.machines[1], HIERARCHY in fixed)]
    is_training = request.purpose == "train"
    if not is_training:  # what a planner tries of an axis is about backward and the optimizer
        taken = list(dict.fromkeys(Candidate(one.plan) for one in taken))

    def told(candidate: Candidate) -> Any:
        begins(str(candidate))
        return judge(candidate)

    left = request.seconds - (time.monotonic() - begin)
    found = search(
        taken, lambda one: judge.bound(one, alone), told, request.num_best, left, request.memory,
        savers=lambda one: savers_of(one, fixed) if is_training else (), cost=judge.cost,
    )  # fmt: skip
    measured: dict[Candidate, float] = {}
    for one in found.best[: request.num_measured]:
        begins(f"two steps under {one.candidate}")
        measured[one.candidate] = measure(one.candidate)
    result = {
        "model": request.name,
        "input": "x".join(map(str, request.shape)),
        "for": request.purpose,
        "workers": request.num_workers,
        "machines": request.machines[0],
        "microbatches": request.config.train.microbatches,
        "images_per_worker": request.images_per_worker,
        "plans": [_row(one, request.shape[0], measured.get(one.candidate)) for one in found.best],
        "refused": [{**_named(one.candidate), "reason": one.reason} for one in (*found.refused, *by_rule)],
        "not_planned": [{"plans": count, "reason": reason} for reason, count in left_out.items()],
        "left": [{**_named(one), "least_seconds": least} for one, least in found.left],
        "certain": found.is_certain,
        "num_best": request.num_best,
        "planning_seconds": time.monotonic() - begin,
    }
    if (wires := _wires(request, judge, found, told, begin)) is not None:
        result["wires"] = wires
    noise = None if request.build.folder is None else noise_of_run(request.build.folder)
    if noise is not None:
        result["noise_scale"] = noise.as_json()
    if request.timeline is not None and found.best:
        result["timeline"] = _write_timeline(request, found.best[0])
    return found, result


def _wires(
    request: PlanRequest,
    judge: Judge | LargeJudge,
    found: Found,
    told: Callable[[Candidate], Any],
    begin: float,
) -> list[dict[str, Any]] | None:
    """Return what a step of the best plan with dp would take if gradients travelled narrow.

    Returns:
        A row for each narrow wire that goes with the plan, the time allowing; none where gradients go through memory, so that nothing
        would be saved. None where nobody would ask: of predictions, of a run, whose wire is a part of what defines it, of a wire that
        the user has chosen, and of plans without dp.
    """
    is_open = (
        request.purpose == "train"
        and request.build.folder is None
        and "pipeline.wire" not in (request.fixed or {})
    )
    best = next((one for one in found.best if one.candidate.plan.num_data > 1), None)
    if not is_open or best is None:
        return None
    if request.machines[0] == 1 and request.shares_memory:
        return []
    rows = []
    plan = best.candidate.plan
    for name, wire in WIRES.items():
        narrow = Candidate(plan, (*best.candidate.settings, ("pipeline.wire", name)))
        fault = wire_fault(name, plan)
        is_late = time.monotonic() - begin + judge.cost(narrow) > request.seconds
        if not wire.is_narrow or fault is not None or is_late:
            continue
        step = told(narrow)
        if not isinstance(step, Refused):
            rows.append(
                {
                    **_named(narrow),
                    "step_seconds": step.seconds,
                    "communication_bytes": sum(step.bytes_sent),
                    "times_as_fast": best.step.seconds / step.seconds if step.seconds else 1.0,
                }
            )
    return rows


def _named(candidate: Candidate) -> dict[str, Any]:
    return {"plan": str(candidate.plan), "settings": dict(candidate.settings)}


def _row(one: Judged, num_images: int, measured: float | None) -> dict[str, Any]:
    step = one.step
    return {
        **_named(one.candidate),
        "step_seconds": step.seconds,
        "images_per_second": num_images / step.seconds if step.seconds else 0.0,
        "peak_bytes": max(step.peak_bytes),
        "idle": step.idle,
        "guessed": step.guessed,
        "communication_bytes": sum(step.bytes_sent),
        "measured_seconds": measured,
        "waits": [list(row) for row in step.waits],
    }


def _write_timeline(request: PlanRequest, best: Judged) -> list[str]:
    assert request.timeline is not None
    title = (
        f"{request.name}, {best.candidate}, simulated: {best.step.seconds:.3f} s, {best.step.idle:.0%} of the workers' time without "
        "computing"
    )
    labels = [f"worker {rank}" for rank in range(len(best.step.spans))]
    picture = write_timeline(request.timeline, best.step.spans, labels, title)
    return [str(request.timeline), str(picture)]
