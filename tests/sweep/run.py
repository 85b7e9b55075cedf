"""One network of the sweep: built once, one reference for each size, and the same step under every plan.

Everything happens in a process of its own, with a time limit: a network that fails, hangs or crashes ends nothing else.
"""

from __future__ import annotations

import copy
import itertools
import os
import signal
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
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


class Attempt:
    """One network that is verified in a process of its own, which ends with its workers after a limit of time.

    Attributes:
        pipe: Ready where there is something to `hear`.
        deadline: By `time.monotonic`; nothing is heard of it later.
    """

    def __init__(self, family: str, name: str, cases: Sequence[Case], limit: float) -> None:
        self._outcome = NetworkResult(family, name, "failed", f"no answer in {limit:.0f} s")
        self._cases, self._limit = cases, limit
        self._begin = time.monotonic()
        self.deadline = self._begin + limit
        context = fork_context()
        self.pipe, send = context.Pipe(duplex=False)
        self._process = context.Process(target=_main, args=(send, family, name, cases, limit))
        self._process.start()
        send.close()

    def hear(self) -> bool:
        """Take in what it has found so far; say whether more may come."""
        try:
            self._outcome = self.pipe.recv()
        except EOFError:  # it has ended
            return False
        return True

    def end(self) -> NetworkResult:
        """End the process and its workers, and return what came of the network."""
        _end_group(self._process.pid)
        self._process.join()
        self.pipe.close()
        outcome, cases = self._outcome, self._cases
        outcome.seconds = round(time.monotonic() - self._begin, 1)
        if len(outcome.cases) < len(cases) and outcome.verdict not in ENDED:
            outcome.verdict = "failed"
            outcome.why = f"it ended after {len(outcome.cases)} of {len(cases)} plans, {outcome.seconds:.0f} of {self._limit:.0f} s"
        return outcome


Task = tuple[str, str, Sequence[Case]]


def run_networks(tasks: Iterable[Task], limit: float, jobs: int) -> Iterator[NetworkResult]:
    """Verify networks, up to `jobs` at a time, and yield what came of each as it ends; each may take `limit` seconds."""
    running: list[Attempt] = []
    waiting = iter(tasks)
    try:
        while True:
            running += [Attempt(*task, limit) for task in itertools.islice(waiting, jobs - len(running))]
            if not running:
                return
            soonest = min(attempt.deadline for attempt in running)
            ready = wait([attempt.pipe for attempt in running], max(0.0, soonest - time.monotonic()))
            for attempt in list(running):
                heard = attempt.pipe in ready and attempt.hear()
                if not heard and (attempt.pipe in ready or time.monotonic() >= attempt.deadline):
                    running.remove(attempt)
                    yield attempt.end()
    finally:
        for attempt in running:
            attempt.end()


def run_network(family: str, name: str, cases: Sequence[Case], limit: float = 120) -> NetworkResult:
    """Verify one network."""
    (outcome,) = run_networks([(family, name, cases)], limit, jobs=1)
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
