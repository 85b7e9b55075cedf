"""Workers that stay: forked once, joined once by gloo, and given one program after the other.

Workers that died, hung or did not agree are ended, and new ones started: what they still owe each other nobody knows. Where all
of them have raised the same error they go on; but a fault that is found later is found again by new workers before it counts.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from fuzz.judge import Finding, Judge, shortened
from fuzz.program import Program
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.plan import parse_plan
from ziggurat.system.forking import die_with_parent, fork_context

LIMIT_SECONDS = 20.0  # for one program
START_SECONDS = 20.0  # more for the first one of new workers
FOLLOW_SECONDS = 6.0  # after the first worker's answer
GRACE_SECONDS = 0.5  # after the first worker's death
MOST_PROGRAMS = 2000  # of the same workers

Fault = Callable[[], None]  # planted in each worker


class Pool:
    """The workers of a plan.

    Args:
        plan: The plan.
        limit: Seconds for each program.
        fault: Called by each worker before it begins.
        start_seconds: More for the first program of new workers.
        follow_seconds: For the others, after the first worker's answer.
        judge: What each worker is.
    """

    def __init__(
        self,
        plan: str,
        limit: float = LIMIT_SECONDS,
        fault: Fault | None = None,
        start_seconds: float = START_SECONDS,
        follow_seconds: float = FOLLOW_SECONDS,
        judge: type[Judge] = Judge,
    ) -> None:
        self.plan, self.limit, self.fault, self.judge = plan, limit, fault, judge
        self.start_seconds, self.follow_seconds = start_seconds, follow_seconds
        self.size = parse_plan(plan).num_workers
        self.processes: list[Any] = []
        self.pipes: list[Connection] = []
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        self.program: Program | None = None
        self.answers: dict[int, Finding] = {}
        self.deadline, self.given, self.is_tainted = 0.0, 0, False

    def submit(self, program: Program) -> None:
        """Give a program to the workers."""
        is_new = not self.processes
        if is_new:
            self._start()
        self.program, self.answers = program, {}
        self.given += 1
        self.deadline = time.monotonic() + self.limit + (self.start_seconds if is_new else 0)
        for pipe in self.pipes:
            try:
                pipe.send(program)
            except OSError:  # it has died; `collect` will see
                continue

    def waits_for(self) -> list[Connection]:
        """Return the pipes of workers that have not answered yet."""
        return [pipe for rank, pipe in enumerate(self.pipes) if rank not in self.answers]

    def collect(self) -> Finding | None:
        """Take the answers that have come; returns the verdict of all workers, or None if it is not known yet."""
        died = False
        for rank, pipe in enumerate(self.pipes):
            while rank not in self.answers and pipe.poll():
                try:
                    self.answers[rank] = pipe.recv()
                except (EOFError, OSError):
                    died = True
                    break
                self.deadline = min(self.deadline, time.monotonic() + self.follow_seconds)
        if len(self.answers) == self.size:
            return self._agreed()
        if died or any(one.verdict == "crashed" for one in self.answers.values()):
            return self._crashed()
        if time.monotonic() > self.deadline:
            return self._hung("no answer in time")
        return None

    def _agreed(self) -> Finding:
        finding = self.answers[0]
        if len({(one.verdict, shortened(one.why)) for one in self.answers.values()}) > 1:
            crashed = any(one.verdict == "crashed" for one in self.answers.values())
            return self._crashed() if crashed else self._hung("workers do not agree")
        if finding.is_fault and self.is_tainted:
            self.close()
            assert self.program is not None
            self.submit(self.program)
            return None
        self.is_tainted |= finding.verdict in ("crashed", "wrong")
        if self.given >= MOST_PROGRAMS:
            self.close()
        self.program = None
        return finding

    def _hung(self, how: str) -> Finding:
        said = [
            f"worker {rank}: {one.verdict if (one := self.answers.get(rank)) else 'silent'} {one.why if one else ''}"
            for rank in range(self.size)
        ]
        return self._fault(Finding("hung", "\n".join([how, *said])))

    def _crashed(self) -> Finding:
        """Say why: an error that a worker has told, or else what it has written before its death."""
        causes = []
        end = time.monotonic() + GRACE_SECONDS  # others may have more to say
        for rank, pipe in enumerate(self.pipes):
            try:
                if rank not in self.answers and pipe.poll(max(0.0, end - time.monotonic())):
                    self.answers[rank] = pipe.recv()
            except (EOFError, OSError):
                causes.insert(0, f"worker {rank} died: {self._last_words(rank)}")
        told = [one.why for one in self.answers.values() if one.verdict == "crashed"]
        told.sort(key=lambda why: "CollectiveFailed" in why.split("\n", 1)[0])  # consequences last
        return self._fault(Finding("crashed", "\n".join([*causes, *told[:1]])))

    def _last_words(self, rank: int) -> str:
        assert self.folder is not None
        text = Path(self.folder.name, f"stderr{rank}").read_text(errors="replace").strip()
        lines = [line for line in text.splitlines() if line.strip()]
        first = next((line for line in lines if "rror" in line or "what()" in line), "")
        self.processes[rank].join(timeout=1)
        return f"exit code {self.processes[rank].exitcode}; {first.strip()[:300]}"

    def _fault(self, finding: Finding) -> Finding:
        program = self.program
        assert program is not None
        self.close()
        self.program = None
        return replace(finding, kinds=tuple(program.kinds), seed=program.seed)

    def _start(self) -> None:
        context = fork_context()
        self.folder, self.given = tempfile.TemporaryDirectory(prefix="fuzz-"), 0
        self.is_tainted = False
        for rank in range(self.size):
            here, there = context.Pipe()
            given = (there, rank, self.size, self.folder.name, self.plan, self.fault, self.judge, os.getpid())
            process = context.Process(target=_main, args=given, daemon=True)
            process.start()
            there.close()
            self.processes.append(process)
            self.pipes.append(here)

    def close(self) -> None:
        """End the workers."""
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
            process.close()
        self.processes, self.pipes = [], []
        if self.folder is not None:
            self.folder.cleanup()
            self.folder = None


def run_all(pools: Sequence[Pool], programs: Iterable[Program]) -> Iterator[Finding]:
    """Judge programs, as many at a time as there are pools; yields findings as they come."""
    left = iter(programs)
    busy: list[Pool] = []
    try:
        while True:
            for pool in [one for one in pools if one not in busy]:
                program = next(left, None)
                if program is not None:
                    pool.submit(program)
                    busy.append(pool)
            if not busy:
                return
            pipes = [pipe for pool in busy for pipe in pool.waits_for()]
            wait(pipes, timeout=max(0.0, min(pool.deadline for pool in busy) - time.monotonic()) + 0.01)
            for pool in list(busy):
                finding = pool.collect()
                if finding is not None:
                    busy.remove(pool)
                    yield finding
    except BaseException:
        for pool in pools:
            pool.close()
        raise


def judge_one(pool: Pool, program: Program) -> Finding:
    """Judge one program."""
    (finding,) = run_all([pool], [program])
    return finding


def _ignore(seed: int) -> None:
    """Seed no device: there is none."""


def _main(
    pipe: Connection,
    rank: int,
    size: int,
    folder: str,
    plan: str,
    fault: Fault | None,
    kind: type[Judge],
    parent: int,
) -> None:
    """Be a worker until the pipe is closed."""
    die_with_parent(parent)
    gc.freeze()  # what was imported is never garbage: a walk through all objects, as each trace takes one, passes it over
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    file = os.open(f"{folder}/stderr{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    faulthandler.enable(sys.__stderr__)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # as the program's own workers have it
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the programs' own
    for device in (
        torch.cuda,
        torch.xpu,
        torch.mtia,
    ):  # each would keep a traceback of every seed, for a third of all time
        device.manual_seed_all = _ignore
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(f"{folder}/store", size),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=600),
    )
    if fault is not None:
        fault()
    judge = kind(Workers(rank, size, group=dist.group.WORLD), plan)
    while True:
        try:
            program = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        pipe.send(judge.judge(program))
