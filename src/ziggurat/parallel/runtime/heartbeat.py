"""What this worker does now, in a kilobyte of shared memory that its launcher reads; and where tests break it.

    worker 0   phase("forward", step=3, microbatch=0, samples=...)  ──> record 0 ┐
    worker 1   phase("exchange") ... waiting()                      ──> record 1 ┴──> the launcher: who hangs, and where

A record belongs to the process, so it is the one piece of state of this module; a thread that works beside training
has a second one (`beside_training`). Without `begin_record` a phase costs a test for None. With it, one copy of some
bytes: no lock, no message, no system call.

A *fault plan* in the environment makes a worker fail as it enters a phase (`tests/faults` uses it):
``ZIGGURAT_FAULTS="kill@forward rank=1 step=3 attempt=0; stop@data rank=0"``. ``kill`` and ``stop`` send SIGKILL and
SIGSTOP, ``loop`` computes for ever, ``interrupt`` sends Ctrl-C's signal to the launcher, ``slow`` sleeps for so many milliseconds each time
(``slow@forward rank=1 ms=20``; ``step`` is the first one then). ``step`` counts from 0; what is not given matches everything.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FAULTS = "ZIGGURAT_FAULTS"
RECORD_BYTES = 1024
_LAYOUT = struct.Struct("<Qdqqq?24s512s")  # of a record: see `_Record.write`
_SECTIONS = {
    "set-up": ("set-up", "process group", "coming", "regrouping"),
    "step": ("data", "forward", "backward", "exchange", "optimizer", "balance", "handover"),
    "checkpoint": ("checkpoint data", "checkpoint manifest", "checkpoint publishing", "checkpoint"),
    "evaluation": ("evaluation", "report"),
    "verification": ("reference", "step under the plan"),
}
PHASES = tuple(name for names in _SECTIONS.values() for name in names)


@dataclass(frozen=True)
class Activity:
    """What a worker was doing when its record was read.

    Attributes:
        pid: Its process id; 0 if it has not begun.
        phase: One of `PHASES`.
        step: Of training, from 0; -1 outside of a step.
        microbatch: From 0; -1 outside of one.
        samples: Ids of the samples, as ``epoch:sample``; as many as the record holds.
        waiting: Whether it waits for other workers.
        since: When it wrote this, on the machine's monotonic clock, in seconds.
    """

    pid: int
    phase: str
    step: int
    microbatch: int
    samples: str
    waiting: bool
    since: float

    @property
    def section(self) -> str:
        """The section that the phase belongs to, which has a time-out."""
        return next(section for section, phases in _SECTIONS.items() if self.phase in phases)

    def __str__(self) -> str:
        """Say where the worker is."""
        parts = [f"step {self.step + 1}"] if self.step >= 0 else []
        parts.append(self.phase + (" (waiting for other workers)" if self.waiting else ""))
        parts += [f"microbatch {self.microbatch}"] if self.microbatch >= 0 else []
        parts += [f"samples {self.samples} (epoch:sample)"] if self.samples else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Fault:
    """A failure that is planned: at the entry of a phase, on a worker, in a step, in an attempt; None matches all.

    Attributes:
        ms: How long ``slow`` sleeps.
    """

    action: str
    phase: str
    rank: int | None = None
    step: int | None = None
    attempt: int | None = None
    ms: int = 0


class _Record:
    """The record of this process."""

    def __init__(self, memory: mmap.mmap, place: int, attempt: int, rank: int, name: str = "set-up") -> None:
        self.memory = memory
        self.place, self.attempt, self.number, self.rank = place, attempt, 0, rank
        self.name, self.step, self.microbatch, self.samples = name.encode(), -1, -1, b""
        self.faults = read_faults(os.environ.get(FAULTS, ""))
        self.write(waiting=False)

    def write(self, waiting: bool) -> None:
        """Write number, time, process, step, microbatch, waiting, phase and samples."""
        self.number += 1
        _LAYOUT.pack_into(
            self.memory, self.place * RECORD_BYTES, self.number, time.monotonic(), os.getpid(),
            self.step, self.microbatch, waiting, self.name, self.samples,
        )  # fmt: skip

    def clear(self) -> None:
        """Say that nothing is done here."""
        self.memory[self.place * RECORD_BYTES : (self.place + 1) * RECORD_BYTES] = bytes(RECORD_BYTES)


_record: _Record | None = None
_of_thread = threading.local()  # `record`: of a thread that has its own


def _current() -> _Record | None:
    own: _Record | None = getattr(_of_thread, "record", None)
    return own or _record


def make_records(path: Path, num_workers: int) -> None:
    """Create the file that holds two records of each worker, what it does and what it does beside that, or lengthen it for more workers."""
    with path.open("ab") as file:
        file.truncate(max(file.tell(), 2 * num_workers * RECORD_BYTES))


def begin_record(path: Path | None, rank: int, attempt: int) -> None:
    """Let this process write its phases to its record from now on.

    Args:
        path: As `make_records` has made it; None keeps the record to this process.
        rank: This worker's number.
        attempt: How often the workers have been started before; for fault plans.
    """
    global _record
    if path is None:
        _record = _Record(mmap.mmap(-1, 2 * RECORD_BYTES), 0, attempt, rank)
        return
    with path.open("r+b") as file:
        _record = _Record(mmap.mmap(file.fileno(), 0), 2 * rank, attempt, rank)


def end_record() -> None:
    """Let this process write no phases any more."""
    global _record
    _record = None


@contextmanager
def beside_training(name: str) -> Iterator[None]:
    """Let this thread write its phases to the process's second record while a block runs; one thread at a time.

    Args:
        name: The phase that it begins with.
    """
    main = _record
    if main is None:
        yield
        return
    record = _Record(main.memory, main.place + 1, main.attempt, main.rank, name)
    _of_thread.record = record
    try:
        yield
    finally:
        _of_thread.record = None
        record.clear()


def read_record(path: Path, rank: int) -> Activity:
    """Return what a worker does now."""
    return _read(path, 2 * rank)


def read_records(path: Path, rank: int) -> list[Activity]:
    """Return what a worker does now, and then what it does beside that, if anything."""
    beside = _read(path, 2 * rank + 1)
    return [read_record(path, rank), *([beside] if beside.pid else [])]


def _read(path: Path, place: int) -> Activity:
    with path.open("rb") as file:
        file.seek(place * RECORD_BYTES)
        fields = _LAYOUT.unpack(file.read(_LAYOUT.size))
    _, since, pid, step, microbatch, waiting, name, samples = fields
    phase_, ids = name.rstrip(b"\0").decode(), samples.rstrip(b"\0").decode()
    return Activity(
        pid, phase_ or "set-up", step if pid else -1, microbatch if pid else -1, ids, waiting, since
    )


def phase(
    name: str,
    step: int | None = None,
    microbatch: int | None = None,
    samples: Sequence[tuple[int, int]] = (),
) -> None:
    """Note that this worker enters a phase.

    Args:
        name: One of `PHASES`.
        step: Of training, from 0; None keeps the one before, except outside of the section "step", where there is
            none.
        microbatch: From 0; None if the phase is not of one.
        samples: (epoch, sample) of the microbatch.
    """
    record = _current()
    if record is None:
        return
    record.name = name.encode()
    record.step = step if step is not None else record.step if name in _SECTIONS["step"] else -1
    record.microbatch = -1 if microbatch is None else microbatch
    record.samples = " ".join(f"{epoch}:{sample}" for epoch, sample in samples).encode()[:512]
    record.write(waiting=False)
    for fault in record.faults:
        if (
            fault.phase == name
            and fault.rank in (None, record.rank)
            and (fault.step in (None, record.step) or (fault.action == "slow" and record.step > fault.step))
            and fault.attempt in (None, record.attempt)
        ):
            _fail(fault)


@contextmanager
def waiting() -> Iterator[None]:
    """Note that this worker waits for others while a block runs: who waits is not who hangs."""
    record = _current()
    if record is None:
        yield
        return
    record.write(waiting=True)
    try:
        yield
    finally:
        record.write(waiting=False)


def read_faults(text: str) -> tuple[Fault, ...]:
    """Read a fault plan.

    Raises:
        ValueError: If it names no action and phase that exist.

    Example:
        >>> read_faults("kill@forward rank=1 step=3")
        (Fault(action='kill', phase='forward', rank=1, step=3, attempt=None, ms=0),)
    """
    faults = []
    for item in filter(None, (item.strip() for item in text.split(";"))):
        words = item.split()
        keys = dict(word.split("=") for word in words if "=" in word)
        action, _, name = " ".join(word for word in words if "=" not in word).partition("@")
        if action not in ("kill", "stop", "loop", "interrupt", "slow") or name not in PHASES:
            raise ValueError(
                f"a fault is kill, stop, loop, interrupt or slow at a phase ({', '.join(PHASES)}), as kill@forward: got '{item}'"
            )
        faults.append(Fault(action, name, **{key: int(value) for key, value in keys.items()}))
    return tuple(faults)


_interrupted: set[Fault] = set()  # who presses Ctrl-C does it once
ANSWER_SECONDS = 30.0


def _fail(fault: Fault) -> None:
    if fault.action == "slow":
        time.sleep(fault.ms / 1000)
        return
    if fault.action == "interrupt":
        if fault not in _interrupted:
            _interrupted.add(fault)
            _interrupt()
        return
    while fault.action == "loop":
        pass
    os.kill(os.getpid(), signal.SIGKILL if fault.action == "kill" else signal.SIGSTOP)


def _interrupt() -> None:
    """Press Ctrl-C at the launcher, and wait until it has answered by a signal, so that the instant is this one."""
    if threading.current_thread() is not threading.main_thread():  # where alone Python hears signals
        os.kill(os.getppid(), signal.SIGINT)
        return
    heard, hearing = os.pipe()
    os.set_blocking(hearing, False)
    before = signal.set_wakeup_fd(hearing)
    os.kill(os.getppid(), signal.SIGINT)
    select.select([heard], [], [], ANSWER_SECONDS)
    signal.set_wakeup_fd(before)
    os.close(heard)
    os.close(hearing)
