"""One network of the sweep: built once, one reference for each size, and the same step under every plan.

Everything happens in a process of its own, with a time limit: a network that fails, hangs or crashes ends nothing else.
"""

from __future__ import annotations

import copy
import os
import signal
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn

from support.ranks import run_ranks
from sweep.alone import take_reference
from sweep.cases import Case
from ziggurat.config import ModelConfig, RunConfig, override
from ziggurat.errors import UserError
from ziggurat.strategies.plan import parse_plan
from ziggurat.system.forking import die_with_parent, fork_context
from ziggurat.verification.check import Check, check_step
from ziggurat.verification.compare import BOUNDS
from ziggurat.verification.errors import Errors
from ziggurat.verification.judgement import Judgement, judge
from ziggurat.verification.networks import build_network
from ziggurat.verification.rounding import measure_rounding
from ziggurat.verification.step import Outcome, Trial

SMALL = ModelConfig(
    channels=64, head_depth=2
)  # pyramids and heads of ours: the same operations, less of each
SEED = 3
ENDED = (
    "wrong",
    "failed",
    "nondeterministic",
    "not built",
)  # verdicts of networks of which no further plan need be tried


@dataclass
class NetworkResult:
    """What came of one network.

    Attributes:
        family: As in the table.
        name: As ``ziggurat verify`` takes it.
        verdict: ``exact``; ``rounding``, ``unclear``, ``wrong`` and ``nondeterministic`` (a bound is broken, see `judge`);
            ``raised`` (an operation is unsupported); ``failed`` (it
            ends by another error under a plan, or before its last plan); ``not built`` (it does not run on one worker either, or
            has no gradient there).
        why: Of everything but ``exact``.
        error: The largest relative error of all plans.
        size: Where the network takes one size only.
        cases: By plan and size, each with its verdict, its errors and what it had to gather.
        seconds: All together.
    """

    family: str
    name: str
    verdict: str
    why: str = ""
    error: float = 0.0
    size: str = ""
    cases: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def run_network(family: str, name: str, cases: Sequence[Case], limit: float = 120) -> NetworkResult:
    """Verify one network in a process of its own; the process and its workers are ended after `limit` seconds."""
    context = fork_context()
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_main, args=(send, family, name, cases, limit))
    begin = time.monotonic()
    process.start()
    send.close()
    outcome = NetworkResult(family, name, "failed", f"no answer in {limit:.0f} s")
    try:
        while receive.poll(max(0.0, begin + limit - time.monotonic())):
            outcome = receive.recv()
    except EOFError:  # it has ended
        pass
    finally:
        _end_group(process.pid)
        process.join()
        receive.close()
    outcome.seconds = round(time.monotonic() - begin, 1)
    if len(outcome.cases) < len(cases) and outcome.verdict not in ENDED:
        outcome.verdict = "failed"
        outcome.why = f"it ended after {len(outcome.cases)} of {len(cases)} plans, {outcome.seconds:.0f} of {limit:.0f} s"
    return outcome


def _end_group(group: int | None) -> None:
    try:
        if group is not None:
            os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _main(pipe: Connection, family: str, name: str, cases: Sequence[Case], limit: float) -> None:
    die_with_parent(os.getppid())
    os.setsid()
    torch.set_num_threads(1)
    outcome = NetworkResult(family, name, "exact")
    try:
        torch.manual_seed(SEED)
        model = build_network(name, SMALL).double()
    except UserError as error:
        pipe.send(NetworkResult(family, name, "not built", str(error)))
        return
    references: dict[tuple[tuple[int, ...], int], tuple[Outcome, Trial]] = {}
    outcome.size = str(getattr(model, "only_size", None) or "")
    for case in cases:
        shape, pieces = case.shape(model, family, name), max(1, case.microbatches)
        if (shape, pieces) not in references:
            generator = torch.Generator().manual_seed(SEED)
            images = torch.randn(shape, generator=generator, dtype=torch.float64)
            trial = Trial(images, SEED, pieces, config=RunConfig(model=replace(SMALL, name=name)))
            try:
                reference, unlike = run_ranks(take_reference, 1, (model, trial), limit)[0]
            except Exception as error:  # noqa: BLE001 - the network's own code
                why = str(error).strip().splitlines()[-1]
                pipe.send(NetworkResult(family, name, "not built", f"{type(error).__name__}: {why}"))
                return
            if unlike:
                pipe.send(NetworkResult(family, name, "nondeterministic", unlike))
                return
            references[shape, pieces] = reference, trial
        reference, trial = references[shape, pieces]
        _add_case(outcome, case, trial, model, reference, limit)
        pipe.send(outcome)


def _add_case(
    outcome: NetworkResult, case: Case, trial: Trial, model: nn.Module, reference: Outcome, limit: float
) -> None:
    """Run one plan, and join its verdict to those before."""
    plan, images = case.plan, trial.images
    if case.schedule:
        trial = replace(trial, config=override(trial.config, {"pipeline.schedule": case.schedule}))
    key = f"{case.title} {'x'.join(str(n) for n in images.shape)}"
    try:
        arguments = (plan, model, trial, reference)
        check: Check = run_ranks(check_step, parse_plan(plan).num_workers, arguments, limit)[0]
    except (RuntimeError, TimeoutError) as error:
        if isinstance(error.__cause__, UserError):  # it cannot be cut
            why = str(error.__cause__)
            outcome.cases[key] = {"verdict": "raised", "why": why}
            if outcome.verdict == "exact":
                outcome.verdict, outcome.why = "raised", why
            return
        why = traceback.format_exc().strip()
        outcome.cases[key] = {"verdict": "failed", "why": why}
        outcome.verdict = outcome.verdict if outcome.verdict == "wrong" else "failed"
        outcome.why = outcome.why or why.splitlines()[-1]
        return
    if check.errors is None:
        found = check.unsupported[0]
        why = f"{found['operation']} in {found['layer']}: {found['reason']}"
        outcome.cases[key] = {"verdict": "raised", "why": why, **found}
        if outcome.verdict == "exact":
            outcome.verdict, outcome.why = "raised", why
        return
    judgement = _judge(check.errors, model, trial, reference)
    verdict, error = judgement.verdict, check.errors.largest
    why = judgement.why and f"{key}: {judgement.why}; {check.errors}"
    gathers = {f"{layer} {operation}": size for (layer, operation), size in check.gathers.items()}
    outcome.cases[key] = {"verdict": verdict, "gathers": gathers, **check.errors.summary()}
    outcome.error = max(outcome.error, error)
    if verdict == "wrong" or (verdict != "exact" and outcome.verdict == "exact"):
        outcome.verdict, outcome.why = verdict, why


def _judge(errors: Errors, model: nn.Module, trial: Trial, reference: Outcome) -> Judgement:
    """Return the verdict; where a bound is broken, one worker takes the step again, rounded in other ways."""
    bound, rounding = BOUNDS[trial.images.dtype], None
    if errors.above(bound):
        rounding = measure_rounding(lambda: copy.deepcopy(model), trial, reference)
    return judge(errors, Errors({}), rounding, bound)  # a reference is the same twice, or none
