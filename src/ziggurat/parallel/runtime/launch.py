"""Starting workers: local ones from this process, again when one is lost, or joining the world of torchrun.

    ziggurat train ... --plan dp=2            this process starts 2 workers, waits, and returns the first one's result
    torchrun ... -m ziggurat train ...        this process is one of the workers already

Either way the workers run the same function. Local workers meet through a file, a new one for each attempt, and talk
over the loopback interface only. PyTorch's elastic launcher is not used for them: it ends the survivors of a lost worker
at once, and starts as many as before; here they hand over their state first, and their number may change, also while they live (`crew`).
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ziggurat.config import LaunchConfig
from ziggurat.errors import CollectiveFailed, Preempted, UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.allocator import keep_freed_memory
from ziggurat.parallel.runtime.attempt import INTERRUPTS, UNANSWERED, Attempt, LastWord
from ziggurat.parallel.runtime.crew import Growth, Line, OtherWorkers
from ziggurat.parallel.runtime.determinism import deterministic
from ziggurat.parallel.runtime.failures import Interrupted as Interrupted
from ziggurat.parallel.runtime.failures import WorkerFailed as WorkerFailed
from ziggurat.parallel.runtime.failures import WorkerLost as WorkerLost
from ziggurat.parallel.runtime.guard import leave_if_imported
from ziggurat.parallel.runtime.hangs import HangWatch, answer_with_stack
from ziggurat.parallel.runtime.heartbeat import begin_record, end_record, make_records, phase, waiting
from ziggurat.parallel.runtime.joining import agree_on_world, torchrun_store
from ziggurat.parallel.runtime.losses import listening
from ziggurat.parallel.runtime.preemption import (
    SIGNALS,
    Preemption,
    forwarded_signals,
    is_ctrl_c,
    raised_signals,
)
from ziggurat.system.forking import die_with_parent
from ziggurat.system.platform import require_linux
from ziggurat.system.scheduling import yielding_threads
from ziggurat.system.scratch import scratch_folder
from ziggurat.system.streams import prepare_streams
from ziggurat.torch_internals.stores import FileStore, Store

T = TypeVar("T")

GROUP_MARGIN_SECONDS = 60


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker process is set up.

    Attributes:
        threads: Threads of each worker.
        device: ``cpu`` or ``cuda``.
        limits: How often lost workers are replaced, and the time-outs of their sections.
    """

    threads: int
    device: str
    limits: LaunchConfig = field(default_factory=LaunchConfig)

    @property
    def group_timeout(self) -> timedelta:
        """How long a worker waits for others: longer than any of them may be silent."""
        limits = self.limits
        sections = (
            limits.setup_seconds,
            limits.step_seconds,
            limits.checkpoint_seconds,
            limits.evaluation_seconds,
        )
        return timedelta(seconds=max(sections) + GROUP_MARGIN_SECONDS)


def _as_they_are(*args: Any) -> tuple[Any, ...]:
    return args


@dataclass(frozen=True)
class Restart:
    """How a function goes on after a worker is lost, or beside more of them.

    Attributes:
        arguments: From a number of workers to the function's arguments in a later attempt, or on a worker that comes later.
        fewer: From a number of workers to the next smaller one that is possible, or the same.
        survived: What survivors have handed over for the next attempt; None if nothing. Another value is news.
        num_workers: How many the function has, as far as it has left word of that.
        prepare: A module's function from the function's arguments, on a worker that comes while the others go on, to those with what
            it has made for them before it is one of the workers.
    """

    arguments: Callable[[int], tuple[Any, ...]]
    fewer: Callable[[int], int]
    survived: Callable[[], int | None]
    num_workers: Callable[[], int]
    prepare: Callable[..., tuple[Any, ...]] = _as_they_are


def world_from_environment() -> int | None:
    """Return the number of workers of the world that torchrun has made, or None outside of it."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(os.environ) else None


def restart_count() -> int:
    """Return how often torchrun has started this worker again; 0 outside of it."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def launch(
    function: Callable[..., T],
    args: tuple[Any, ...],
    num_workers: int,
    settings: WorkerSettings,
    restart: Restart | None = None,
) -> T | None:
    """Call ``function(workers, *args)`` on every worker.

    Args:
        function: A module's function (spawned workers import it by name).
        args: Its further arguments.
        num_workers: Size of the world; under torchrun it must be the world's own.
        settings: Threads, device and limits.
        restart: How local workers go on when one is lost; None ends the run then. torchrun has its own restarts.

    Returns:
        The first worker's result; under torchrun each worker returns, and only the first gets a result.

    Raises:
        UserError: A worker found the user's input wrong; the message is that worker's own. Or this is no Linux, or the script that
            calls it is imported by its workers, and does so again.
        WorkerFailed: A worker failed otherwise; the message is that worker's own traceback.
        WorkerLost: A worker died or hung, and no restart is left.
        Preempted: By SIGTERM, SIGUSR1, SIGHUP or Ctrl-C, which go on to every worker; these have finished their step, or not begun.
        Interrupted: By Ctrl-C where no worker takes note of it, or for the second time. All workers have ended.
    """
    leave_if_imported()
    require_linux()
    world = world_from_environment()
    if world is not None:
        return _join(function, args, settings)
    if num_workers == 1:
        try:
            return _run_alone(function, args, settings, restart)
        except OtherWorkers as asked:
            num_workers, args = asked.num_workers, asked.args
        gc.collect()  # the network that this process has trained: it is only the launcher now
    return _start_local(function, args, num_workers, settings, restart)


def _run_alone(
    function: Callable[..., T], args: tuple[Any, ...], settings: WorkerSettings, restart: Restart | None
) -> T:
    keep_freed_memory()
    try:
        with raised_signals(), _set_up(settings, 0) as device:
            workers = Workers(device=device)
            if restart is not None and settings.device == "cpu":
                workers.line = Line(None, _sending_fault(settings, (function, args)))
            return function(workers, *args)
    except KeyboardInterrupt as stop:
        raise (Interrupted() if is_ctrl_c(stop) else Preempted(UNANSWERED)) from None


def _join(function: Callable[..., T], args: tuple[Any, ...], settings: WorkerSettings) -> T | None:
    keep_freed_memory()  # not in `join_world`: it cannot be undone, and there the process is the user's own
    with join_world(settings) as workers:
        result = function(workers, *args)
    return result if workers.is_first else None


@contextmanager
def join_world(settings: WorkerSettings | None = None) -> Iterator[Workers]:
    """Be one of torchrun's workers while a block runs; outside of torchrun, the only worker.

    Afterwards the process is as it was: its number of threads, what Ctrl-C does, PyTorch's settings, the CUDA device.

    Args:
        settings: Threads and device; by default one thread on the CPU, a GPU where there is one.

    Yields:
        All workers. Keys of the store are this world's own, also after a restart.
    """
    settings = settings or WorkerSettings(1, "cuda" if torch.cuda.is_available() else "cpu")
    if world_from_environment() is None:
        with _set_up(settings, 0) as device:
            yield Workers(device=device)
        return
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    with _set_up(settings, local_rank) as device, _deadly_interrupts():
        begin_record(None, rank, restart_count())  # nobody reads it; fault plans work
        try:
            store = torchrun_store(rank, settings.group_timeout)
            store = agree_on_world(store, rank, world, settings.group_timeout)
            with _process_group(rank, world, device, store, settings) as workers:
                yield workers
        finally:
            end_record()


@contextmanager
def _deadly_interrupts() -> Iterator[None]:
    """Let Ctrl-C end this process at once while a block runs, also inside a collective."""
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers in no other
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _sending_fault(settings: WorkerSettings, things: Any) -> str:
    """Return why workers cannot be given what they need; nothing where they can."""
    if _start_method(settings) == "fork":
        return ""
    try:
        pickle.dumps(things)
    except Exception as error:  # noqa: BLE001 - pickle raises almost anything
        return f"workers with several threads are started anew, and what the run was given cannot be sent to them ({error})"
    return ""


@contextmanager
def _process_group(
    rank: int, world: int, device: torch.device, store: Store, settings: WorkerSettings
) -> Iterator[Workers]:
    phase("process group")
    if world == 1:
        yield Workers(device=device)
        return
    is_nccl = device.type == "cuda" and settings.limits.backend != "gloo"
    with waiting(), nullcontext() if is_nccl else yielding_threads():
        dist.init_process_group(
            "nccl" if is_nccl else "gloo",
            store=store,
            rank=rank,
            world_size=world,
            timeout=settings.group_timeout,
            device_id=device if is_nccl else None,
        )
    phase("set-up")
    try:
        through_host = device.type == "cuda" and not is_nccl
        workers = Workers(rank, world, device, dist.group.WORLD, settings.group_timeout, through_host)
        yield workers
    except CollectiveFailed:
        # another worker is lost, and a thread may be waiting for it: the end of this process ends all
        raise
    except OtherWorkers:
        dist.destroy_process_group()
        workers.let_go()
        raise
    except BaseException:
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()
    workers.let_go()


@contextmanager
def _set_up(settings: WorkerSettings, local_rank: int) -> Iterator[torch.device]:
    """Set up this process as a worker while a block runs.

    Yields:
        Where it computes.
    """
    threads = torch.get_num_threads()
    with deterministic(settings.device):  # before CUDA starts
        torch.set_num_threads(settings.threads)
        try:
            if settings.device == "cpu":
                yield torch.device("cpu")
            else:
                # nccl refuses two workers on one device; gloo does not
                shared = settings.limits.backend == "gloo"
                index = local_rank % torch.cuda.device_count() if shared else local_rank
                with torch.cuda.device(index):
                    yield torch.device("cuda", index)
        finally:
            torch.set_num_threads(threads)


def _start_local(
    function: Callable[..., T],
    args: tuple[Any, ...],
    num_workers: int,
    settings: WorkerSettings,
    restart: Restart | None,
) -> T:
    """Start workers, and start them again as long as some are lost and `restart` allows it."""
    attempt, in_a_row, furthest = 0, 0, -1
    with forwarded_signals() as preemption:
        while True:
            before = restart.num_workers() if restart is not None else num_workers
            try:
                return _attempt(function, args, num_workers, settings, restart, attempt, preemption)
            except WorkerLost as lost:
                attempt += 1
                in_a_row = in_a_row + 1 if lost.step <= furthest else 1
                furthest = max(furthest, lost.step)
                if restart is None or in_a_row > settings.limits.max_restarts:
                    raise
                if restart.num_workers() != before:  # it has changed while the attempt went on
                    num_workers = restart.num_workers()
                if in_a_row > 1:  # what fails twice at the same place may need more than is there
                    num_workers = restart.fewer(num_workers)
                args = restart.arguments(num_workers)
                again = f"{lost}; attempt {attempt + 1}, with {num_workers} workers"
                print(f"ziggurat: {again}", file=sys.stderr, flush=True)
            if preemption.requested:  # between two attempts there is nobody to answer
                raise Interrupted() if preemption.by_user else Preempted(UNANSWERED)


def _attempt(
    function: Callable[..., T],
    args: tuple[Any, ...],
    num_workers: int,
    settings: WorkerSettings,
    restart: Restart | None,
    number: int,
    preemption: Preemption,
) -> T:
    with scratch_folder() as folder:
        records = folder / "records"
        make_records(records, num_workers)
        watch = HangWatch(folder, records, settings.limits)
        seat = _Seat(folder, records, num_workers, number, settings, os.getpid(), restart is not None)
        growth = None
        if restart is not None:
            new = replace(seat, prepare=restart.prepare)
            growth = Growth(lambda count: (new, function, restart.arguments(count)), restart.survived)
        attempt = Attempt(folder, records, watch, growth, preemption)
        result: T = attempt.run(_start_method(settings), num_workers, _local_worker, (seat, function, args))
        return result


@dataclass(frozen=True)
class _Seat:
    """What a local worker is told about its attempt.

    Attributes:
        goes_on: Whether the function can go on with another number of workers.
        prepare: Of a worker that comes while the others go on: see `Restart`; how many there are then it is told later.
    """

    folder: Path
    records: Path
    num_workers: int
    number: int
    settings: WorkerSettings
    parent: int
    goes_on: bool
    prepare: Callable[..., tuple[Any, ...]] | None = None


def _start_method(settings: WorkerSettings) -> str:
    """Fork where that is safe: not with CUDA, nor with several threads (OpenMP's do not survive a fork)."""
    return "fork" if settings.device == "cpu" and settings.threads == 1 else "spawn"


def _local_worker(
    pipe: Connection, rank: int, seat: _Seat, function: Callable[..., T], args: tuple[Any, ...]
) -> None:
    """Run in a new process: set it up, call the function among the other workers, report to the launcher."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher answers Ctrl-C
    for number in (*SIGNALS, *INTERRUPTS):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets SIGHUP
            # die at once, also inside a collective; training takes note of some
            signal.signal(number, signal.SIG_DFL)
    die_with_parent(seat.parent)
    prepare_streams()
    begin_record(seat.records, rank, seat.number)
    answer_with_stack(seat.folder, rank)
    try:
        if seat.settings.device == "cpu":
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        else:
            # the launcher watches over the workers (`losses`); NCCL's own watch would end a survivor before it hands over
            os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
        keep_freed_memory()
        with _set_up(seat.settings, rank) as device:
            word = _call_in_worlds(pipe, rank, seat, device, function, args)
    except Preempted as error:
        word = LastWord(preempted=str(error))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the launcher reports it
        faults = error.faults if isinstance(error, UserError) else None
        is_consequence = isinstance(error, CollectiveFailed)
        word = LastWord(faults=faults, traceback=traceback.format_exc(), is_consequence=is_consequence)
    try:
        pipe.send(word)
    except BrokenPipeError:
        if not word.has_left:  # then nobody waits for it
            raise
    pipe.close()
    sys.stdout.flush()
    sys.stderr.flush()
    if word.traceback:
        os._exit(1)  # without waiting for what other workers owe it


def _call_in_worlds(
    pipe: Connection,
    rank: int,
    seat: _Seat,
    device: torch.device,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> LastWord:
    """Call a function among all workers, and again among others as long as their number changes and this one is needed."""
    line = Line(pipe) if seat.goes_on and seat.settings.device == "cpu" else None
    num_workers, world = seat.num_workers, 0
    if seat.prepare is not None:
        assert line is not None
        args = seat.prepare(*args)
        num_workers, world = line.wait_for_go()
    while rank < num_workers:
        store = FileStore(f"{seat.folder}/store-{world}", num_workers)
        try:
            with (
                _process_group(rank, num_workers, device, store, seat.settings) as workers,
                listening(seat.folder, workers.abort) if device.type == "cuda" else nullcontext(),
            ):
                workers.line = line
                result = function(workers, *args)
            return LastWord(result if rank == 0 else None)
        except OtherWorkers as other:
            num_workers, args, world = other.num_workers, other.args, world + 1
        phase("regrouping")
        if rank == 0 and line is not None:
            line.moved(num_workers, world)
    return LastWord(has_left=True)
