"""Programs by PyTorch alone, on one worker, and under their plans: what came of each.

Processes are forked once for many programs, and anew after each that was not exact: what it leaves behind (an exchange that
another worker never took part in, a signal, a loop without end) is no other program's.

    PyTorch      one process without a group:  program 1 twice, program 2 twice, ...
    references   likewise
    sp=2         two processes with a group:                 program 1 | refused | program 3, program 4 ...
    pp=2         likewise                                               ^ forked anew
"""

from __future__ import annotations

import os
import pickle
import random
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from programs.program import Program
from ziggurat.config import RunConfig, override
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.spatial import UnsupportedOperation
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.plan import parse_plan
from ziggurat.system.forking import die_with_parent, fork_context
from ziggurat.verification.check import check_step
from ziggurat.verification.compare import BOUNDS, LARGEST, relative_error
from ziggurat.verification.losses import tensors_of
from ziggurat.verification.networks import fill_zero_weights
from ziggurat.verification.step import Outcome, Trial, run_step

SEED = 3
LIMIT = 6.0  # seconds that a program may take; it takes a twentieth of one
Key = tuple[str, str]
BOUND = BOUNDS[torch.float64]
STEP = {"train.clip_norm": 0.1, "train.ema": 0.9, "train.lr": 0.1}  # as `ziggurat verify` takes it
VERDICTS = {
    "exact": "every error is within 1e-10",
    "refused": "by name, with a remedy",
    "wrong": "an error is above the bound",
    "crashed": "it ended by another error, or a worker died",
    "hung": "no answer of all workers",
    "not repeatable": "two runs by PyTorch alone differ, or are not finite: no program",
    "does not run": "not by PyTorch alone either: no program",
}


@dataclass(frozen=True)
class Verdict:
    """What came of a program under a plan.

    Attributes:
        program: Which.
        plan: Of one worker: empty.
        verdict: A key of `VERDICTS`.
        error: The largest, where there is one.
        message: The refusal or the error; where it is wrong, what is.
        operation: Of a refusal: what is refused; empty where the refusal names none.
        seconds: That it took.
    """

    program: Program
    plan: str
    verdict: str
    error: float = 0.0
    message: str = ""
    operation: str = ""
    seconds: float = 0.0

    @property
    def is_kept(self) -> bool:
        """Whether the promise is kept: exact, or refused by name."""
        return self.verdict in ("exact", "refused")


def run_programs(cases: Sequence[tuple[Program, str]], limit: float = LIMIT) -> Iterator[Verdict]:
    """Run programs by PyTorch alone, then a step of each on one worker, then under plans.

    Yields:
        For each program that does not run twice alike by PyTorch alone its verdict, with an empty plan; for each other case its
        verdict. What is refused, or fails, on one worker is so under every plan.
    """
    programs = list({key_of(program): program for program, _ in cases}.values())
    alike = set()
    for program, answer in zip(programs, run_each(_alone_twice, programs, 1, limit), strict=True):
        error = 0.0 if answer.failure else answer.results[0]
        if answer.failure or error > 0:
            verdict = "does not run" if answer.failure else "not repeatable"
            yield Verdict(program, "", verdict, error, answer.failure, seconds=answer.seconds)
        else:
            alike.add(key_of(program))
    cases = [(program, plan) for program, plan in cases if key_of(program) in alike]
    wanted = list({(key_of(p), pieces_of(plan)): (p, pieces_of(plan)) for p, plan in cases}.values())
    references: dict[tuple[Key, int], Outcome] = {}
    for (program, pieces), answer in zip(wanted, run_each(_reference, wanted, 1, limit), strict=True):
        if not answer.failure and isinstance(answer.results[0], Outcome):
            references[key_of(program), pieces] = answer.results[0]
            continue
        for plan in (plan for one, plan in cases if one is program and pieces_of(plan) == pieces):
            found = _judge(program, plan, answer)
            yield replace(found, message=f"on one worker: {found.message}")
    for plan in dict.fromkeys(plan for _, plan in cases):
        pieces = pieces_of(plan)
        items = [
            (program, plan, references[key_of(program), pieces])
            for program, of_case in cases
            if of_case == plan and (key_of(program), pieces) in references
        ]
        answers = run_each(_under_plan, items, parse_plan(plan).num_workers, limit)
        for (program, _, _), answer in zip(items, answers, strict=True):
            yield _judge(program, plan, answer)


def key_of(program: Program) -> Key:
    """Return the file and the name of a program."""
    return program.build.__module__, program.name


def pieces_of(plan: str) -> int:
    """Return in how many microbatches a step under a plan is taken."""
    return parse_plan(plan).num_microbatches


def _judge(program: Program, plan: str, answer: Answer) -> Verdict:
    """Return the verdict of what the workers say of a program."""
    if answer.failure:
        verdict = "hung" if answer.is_late else "crashed"
        return Verdict(program, plan, verdict, message=answer.failure, seconds=answer.seconds)
    refusals = [result for result in answer.results if isinstance(result, Refusal)]
    if refusals:
        first = refusals[0]
        return Verdict(program, plan, "refused", 0.0, first.message, first.operation, answer.seconds)
    error, where = answer.results[0]
    return Verdict(
        program, plan, "exact" if error <= BOUND else "wrong", error, where, seconds=answer.seconds
    )


# ---------------------------------------------------------------------------------------------------------------- on a worker


@dataclass(frozen=True)
class Refusal:
    """What a worker says of a network that it refuses.

    Attributes:
        message: To its user.
        operation: That is refused; empty if another rule is broken.
    """

    message: str
    operation: str = ""


def _network(program: Program) -> nn.Module:
    torch.manual_seed(SEED)
    model = program.build().double()
    fill_zero_weights(model)
    return model


def _trial(program: Program, pieces: int) -> Trial:
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randn(program.shape, generator=generator, dtype=torch.float64)
    return Trial(images, SEED, pieces, config=override(RunConfig(), STEP))


def _seed_others(number: int) -> None:
    """Leave the generators of NumPy and Python as they are in different processes: in other states."""
    np.random.seed(number)
    random.seed(number)


def _alone_twice(workers: Workers, program: Program) -> float:
    """Return how far two runs of a program are from each other, forward and backward, by PyTorch alone."""
    values = []
    for _ in range(2):
        model, images = _network(program), _trial(program, 1).images.clone().requires_grad_()
        _seed_others(SEED)
        torch.manual_seed(SEED)
        outputs = list(tensors_of(model(images)))
        generator = torch.Generator().manual_seed(SEED)
        differentiable = [output for output in outputs if output.requires_grad]
        weights = [torch.randn(o.shape, generator=generator, dtype=o.dtype) for o in differentiable]
        torch.autograd.backward(differentiable, weights)
        gradients = [t.grad for t in (images, *model.parameters()) if t.grad is not None]
        values.append([*outputs, *gradients, *model.buffers()])
    if not all(bool(value.isfinite().all()) for value in values[0]):
        return LARGEST
    return max(relative_error(one, other) for one, other in zip(*values, strict=True))


def _reference(workers: Workers, item: tuple[Program, int]) -> Outcome | Refusal:
    """Return the step on one worker."""
    program, pieces = item
    model = _network(program)
    _seed_others(SEED)
    try:
        return run_step(model, _trial(program, pieces), make_mesh(workers))
    except UserError as error:
        return _refusal(error)


def _under_plan(workers: Workers, item: tuple[Program, str, Outcome]) -> tuple[float, str] | Refusal:
    """Return the largest error of the step under a plan, with all of them in words; or the refusal."""
    program, plan, reference = item
    model = _network(program)
    _seed_others(100 + workers.rank)
    try:
        check = check_step(workers, plan, model, _trial(program, pieces_of(plan)), reference)
    except UserError as error:
        return _refusal(error)
    if check.errors is None:
        found = check.unsupported[0]
        return Refusal(
            f"{found['operation']} in the layer '{found['layer']}': {found['reason']}; {found['remedy']}", found["operation"]
        )  # fmt: skip
    return check.errors.largest, str(check.errors)


def _refusal(error: UserError) -> Refusal:
    return Refusal(str(error), error.operation if isinstance(error, UnsupportedOperation) else "")


# -------------------------------------------------------------------------------------------------------------- many in a row


@dataclass(frozen=True)
class Answer:
    """What the workers say of one item.

    Attributes:
        results: Of each worker; empty if there was a failure.
        failure: The last line of a worker's traceback, or that it died or gave no answer; empty if all have answered.
        is_late: Whether that is because the time was over.
        seconds: Until all had answered.
    """

    results: list[Any]
    failure: str = ""
    is_late: bool = False
    seconds: float = 0.0


def run_each(
    function: Callable[[Workers, Any], Any], items: Sequence[Any], world: int, limit: float
) -> Iterator[Answer]:
    """Call a function for one item after the other on forked workers, which are forked anew after each refusal and failure.

    Args:
        function: Of the workers and an item; what it returns is pickled.
        items: Not pickled: the fork has them.
        world: Number of workers.
        limit: Seconds for each item.
    """
    done = 0
    while done < len(items):
        with tempfile.TemporaryDirectory() as folder:
            team = _Team(function, items[done:], world, folder, limit)
            try:
                while done < len(items):
                    answer = team.next_answer()
                    done += 1
                    yield answer
                    if answer.failure or any(isinstance(result, Refusal) for result in answer.results):
                        break
            finally:
                team.end()


class _Team:
    """Workers that go through items by themselves, and stop after one that they refuse or fail at."""

    def __init__(
        self,
        function: Callable[[Workers, Any], Any],
        items: Sequence[Any],
        world: int,
        folder: str,
        limit: float,
    ) -> None:
        context = fork_context()
        self.limit, self.processes, self.pipes = limit, [], []
        for rank in range(world):
            receive, send = context.Pipe(duplex=False)
            process = context.Process(
                target=_go_through, args=(function, items, rank, world, folder, send, limit, os.getpid())
            )
            process.start()
            send.close()
            self.processes.append(process)
            self.pipes.append(receive)

    def next_answer(self) -> Answer:
        """Wait for the next result of every worker; the first failure ends the wait."""
        begin = time.monotonic()
        results: dict[int, Any] = {}
        waiting = {pipe: rank for rank, pipe in enumerate(self.pipes)}
        while waiting:
            ready = wait(list(waiting), timeout=max(0.0, begin + self.limit - time.monotonic()))
            seconds = time.monotonic() - begin
            if not ready:
                late = f"workers {sorted(waiting.values())} gave no answer in {self.limit:.0f} s"
                return Answer([], late, is_late=True, seconds=seconds)
            for pipe in ready:
                rank = waiting.pop(pipe)
                try:
                    failure, results[rank] = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our own child process
                except EOFError:
                    self.processes[rank].join(1)
                    failure = f"worker {rank} died with exit status {self.processes[rank].exitcode}"
                if failure:
                    return Answer([], failure, seconds=seconds)
        return Answer([results[rank] for rank in range(len(self.pipes))], seconds=time.monotonic() - begin)

    def end(self) -> None:
        """Leave no process behind."""
        for process, pipe in zip(self.processes, self.pipes, strict=True):
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
            process.join()
            process.close()
            pipe.close()


def _go_through(
    function: Callable[[Workers, Any], Any],
    items: Sequence[Any],
    rank: int,
    world: int,
    folder: str,
    pipe: Connection,
    limit: float,
    parent: int,
) -> None:
    die_with_parent(parent)
    torch.set_num_threads(1)
    if world > 1:
        store = dist.FileStore(f"{folder}/store", world)
        dist.init_process_group(
            "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=10 * limit)
        )
    workers = Workers(rank, world, group=dist.group.WORLD if world > 1 else None)
    for item in items:
        failure, result = "", None
        try:
            result = function(workers, item)
        except BaseException as error:  # noqa: BLE001 - everything is reported
            failure = _last_frames(error)
        pipe.send_bytes(pickle.dumps((failure, result)))
        if failure or isinstance(result, Refusal):
            break
    pipe.close()
    os._exit(0)


def _last_frames(error: BaseException) -> str:
    """Return an error in a line, with the lines of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(
        f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames[::-1]
    )
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({places})"
