"""Starting workers: local ones through PyTorch's elastic launcher, or joining the world that torchrun has made.

    ziggurat train ... --plan dp=2            this process starts 2 workers, waits, and returns the first one's result
    torchrun ... -m ziggurat train ...        this process is one of the workers already

Either way the workers run the same function. Local workers meet through a file, and talk over the loopback
interface only.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, PrefixStore, Store
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.rendezvous import rendezvous

from ziggurat.errors import Preempted, UserError
from ziggurat.parallel.preemption import SIGNALS as PREEMPTION_SIGNALS
from ziggurat.parallel.preemption import forwarded_signals
from ziggurat.parallel.workers import Workers

T = TypeVar("T")

GROUP_TIMEOUT = timedelta(minutes=10)
SHUTDOWN_SECONDS = 2
HANDLED_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # by the elastic launcher
NO_TCP_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
LAST_WORD_SECONDS = 0.5  # a failing worker lets others fail first whose end may be the cause of its failure


class WorkerFailed(RuntimeError):  # noqa: N818 - reads as what happened
    """A worker ended by an error that is not the user's; the message is that worker's own traceback."""


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """The user ended the run by Ctrl-C."""


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker process is set up.

    Attributes:
        threads: Threads of each worker.
        device: ``cpu`` or ``cuda``.
    """

    threads: int
    device: str


def world_from_environment() -> int | None:
    """Return the number of workers of the world that torchrun has made, or None outside of it."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(os.environ) else None


def launch(
    function: Callable[..., T], args: tuple[Any, ...], num_workers: int, settings: WorkerSettings
) -> T | None:
    """Call ``function(workers, *args)`` on every worker.

    Args:
        function: A module's function (spawned workers import it by name).
        args: Its further arguments.
        num_workers: Size of the world; under torchrun it must be the world's own.
        settings: Threads and device.

    Returns:
        The first worker's result; under torchrun each worker returns, and only the first gets a result.

    Raises:
        UserError: A worker found the user's input wrong; the message is that worker's own.
        WorkerFailed: A worker failed otherwise; the message is that worker's own traceback.
        Preempted: By SIGTERM or SIGUSR1, which go on to every worker; these have finished their step, or not begun.
        Interrupted: By Ctrl-C. All workers have ended.
    """
    world = world_from_environment()
    if world is not None:
        return _join(function, args, settings)
    if num_workers == 1:
        return _run_alone(function, args, settings)
    return _start_local(function, args, num_workers, settings)


def _run_alone(function: Callable[..., T], args: tuple[Any, ...], settings: WorkerSettings) -> T:
    _set_up(settings)
    try:
        return function(Workers(device=_device(settings, 0)), *args)
    except KeyboardInterrupt:
        raise Interrupted from None


def _join(function: Callable[..., T], args: tuple[Any, ...], settings: WorkerSettings) -> T | None:
    with join_world(settings) as workers:
        result = function(workers, *args)
    return result if workers.is_first else None


@contextmanager
def join_world(settings: WorkerSettings | None = None) -> Iterator[Workers]:
    """Be one of torchrun's workers while a block runs; outside of torchrun, the only worker.

    Args:
        settings: Threads and device; by default one thread on the CPU, a GPU where there is one.

    Yields:
        All workers. Keys of the store are prefixed by the restart attempt.
    """
    settings = settings or WorkerSettings(1, "cuda" if torch.cuda.is_available() else "cpu")
    _set_up(settings)
    if world_from_environment() is None:
        yield Workers(device=_device(settings, 0))
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # die at once, also inside a collective
    store, rank, world = next(rendezvous("env://", timeout=GROUP_TIMEOUT))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    store = PrefixStore(f"ziggurat/attempt-{attempt}", store)
    with _process_group(rank, world, local_rank, store, settings) as workers:
        yield workers


@contextmanager
def _process_group(
    rank: int, world: int, local_rank: int, store: Store, settings: WorkerSettings
) -> Iterator[Workers]:
    device = _device(settings, local_rank)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=world,
        timeout=GROUP_TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )
    try:
        yield Workers(rank, world, device, dist.group.WORLD if world > 1 else None)
    finally:
        dist.destroy_process_group()


def _set_up(settings: WorkerSettings) -> None:
    torch.set_num_threads(settings.threads)
    if settings.device == "cuda":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


def _device(settings: WorkerSettings, local_rank: int) -> torch.device:
    if settings.device == "cpu":
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _start_local(
    function: Callable[..., T], args: tuple[Any, ...], num_workers: int, settings: WorkerSettings
) -> T:
    _silence_launcher()
    with tempfile.TemporaryDirectory(prefix="ziggurat-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_workers,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint=f"{folder}/rendezvous",
            rdzv_configs={"store_type": "file"},
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            start_method=_start_method(settings),
            shutdown_timeout=SHUTDOWN_SECONDS,
            signals_to_handle=",".join(number.name for number in HANDLED_SIGNALS),
        )
        private = os.environ.get(NO_TCP_STORE)
        os.environ[NO_TCP_STORE] = "1"  # it would listen on every interface; workers meet through a file
        handlers = {number: signal.getsignal(number) for number in HANDLED_SIGNALS}
        try:
            with forwarded_signals() as preemption:
                results = elastic_launch(config, _local_worker)(folder, function, args, settings, os.getpid())
        except ChildFailedError as error:
            raise _first_failure(Path(folder), error, preemption.requested) from None
        except (KeyboardInterrupt, SignalException):
            raise Interrupted from None
        finally:
            os.environ.pop("TORCHELASTIC_SIGNALS_TO_HANDLE", None)
            os.environ.pop(NO_TCP_STORE)
            if private is not None:
                os.environ[NO_TCP_STORE] = private
            for number, handler in handlers.items():  # the launcher has replaced them
                signal.signal(number, handler)
    value: T = results[0]
    return value


def _start_method(settings: WorkerSettings) -> str:
    """Fork where that is safe: not with CUDA, nor with several threads (OpenMP's do not survive a fork)."""
    return "fork" if settings.device == "cpu" and settings.threads == 1 else "spawn"


def _silence_launcher() -> None:
    """Let nobody but the worker that failed speak of the failure."""
    for name in logging.root.manager.loggerDict:
        if name.startswith(("torch.distributed", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _local_worker(
    folder: str, function: Callable[..., T], args: tuple[Any, ...], settings: WorkerSettings, parent: int
) -> T | None:
    """Run in a new process: set it up, join the others, call the function, report an error to the parent."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        for number in (signal.SIGINT, *PREEMPTION_SIGNALS):
            signal.signal(
                number, signal.SIG_DFL
            )  # die at once, also inside a collective; training notes some
        die_with_parent(parent)
        if settings.device == "cpu":
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        _set_up(settings)
        store = FileStore(f"{folder}/store-{os.environ['TORCHELASTIC_RESTART_COUNT']}", world)
        with _process_group(rank, world, rank, store, settings) as workers:
            result = function(workers, *args)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent reports it
        report = {
            "rank": rank,
            "time": time.time(),
            "faults": error.faults if isinstance(error, UserError) else None,
            "preempted": str(error) if isinstance(error, Preempted) else None,
            "traceback": traceback.format_exc(),
        }
        Path(folder, f"error-{rank}.json").write_text(json.dumps(report), encoding="utf-8")
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(LAST_WORD_SECONDS if report["faults"] is None and report["preempted"] is None else 0)
        os._exit(1)
    return result if rank == 0 else None


def die_with_parent(parent: int) -> None:
    """End this process when the process that started it ends, however that ends (Linux only)."""
    if not sys.platform.startswith("linux"):
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def _first_failure(folder: Path, error: ChildFailedError, preempted: bool) -> Exception:
    """Return what ended the run: a worker that was killed, or the earliest error that a worker reported.

    A worker that is killed has no last word; the errors of those that were talking to it are consequences.
    """
    for rank, failure in error.failures.items():
        if -failure.exitcode == signal.SIGINT:
            return Interrupted()  # Ctrl-C reaches the workers, too, and they may be faster
        forwarded = (
            PREEMPTION_SIGNALS if preempted else (signal.SIGTERM,)
        )  # SIGTERM: by the launcher, afterwards
        if failure.exitcode < 0 and -failure.exitcode not in forwarded:
            return WorkerFailed(f"worker {rank} was killed by {signal.Signals(-failure.exitcode).name}")
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("error-*.json")]
    for report in reports:
        if report["preempted"] is not None:
            return Preempted(report["preempted"])
    if preempted and all(report["faults"] is None for report in reports):
        return Preempted(
            "stopped by a signal before the first step, or outside of training; nothing was written"
        )
    if not reports:
        rank, failure = error.get_first_failure()
        return WorkerFailed(f"worker {rank} ended without a message, with exit status {failure.exitcode}")
    # A user's fault is a cause; what its worker's end does to the others is not.
    first = min(reports, key=lambda report: (report["faults"] is None, float(report["time"])))
    if first["faults"] is not None:
        return UserError(first["faults"])
    return WorkerFailed(f"worker {first['rank']} failed:\n{first['traceback']}")
