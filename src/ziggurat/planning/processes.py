"""Real worker processes for a plan that is looked at: forked, joined by gloo through a file, one thread each, and gone afterwards."""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ziggurat.errors import CollectiveFailed, UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.system.forking import die_with_parent, fork_context, without_ctrl_c
from ziggurat.system.scheduling import yielding_threads
from ziggurat.torch_internals.stores import FileStore

T = TypeVar("T")


def on_workers(
    function: Callable[..., T], num_workers: int, args: Sequence[Any], seconds: float = 600.0
) -> list[T]:
    """Return what a function returns on each of several forked processes, in order of rank.

    Args:
        function: Called with the process's `Workers` and the arguments, which it may change: they are a copy of its own.
        num_workers: One at least.
        args: Shared with the processes until somebody writes to them.
        seconds: Until a worker that does not answer is given up.

    Raises:
        UserError: Of the first worker that raises one.
        RuntimeError: If a worker raises anything else, dies, or does not answer.
    """
    context = fork_context()
    with tempfile.TemporaryDirectory() as folder:
        processes: list[BaseProcess] = []
        pipes: list[Connection] = []
        try:
            for rank in range(num_workers):
                receive, send = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(
                    target=_be_worker,
                    args=(os.getpid(), function, rank, num_workers, folder, send, args, seconds),
                )
                with without_ctrl_c():
                    process.start()
                send.close()
                processes.append(process)
                pipes.append(receive)
            return _collect(pipes, seconds)
        finally:
            for process in processes:
                process.join(timeout=0.5)
                if process.is_alive() and process.pid is not None:
                    os.kill(process.pid, signal.SIGKILL)
                    process.join()
                process.close()
            for pipe in pipes:
                pipe.close()


def _collect(pipes: Sequence[Connection], seconds: float) -> list[Any]:
    """Wait for the answers of all; where one has failed, the others' are waited for shortly: theirs may say more."""
    results: dict[int, Any] = {}
    errors: dict[int, tuple[BaseException | None, str]] = {}
    end = time.monotonic() + seconds
    waiting = {pipe: rank for rank, pipe in enumerate(pipes)}
    while waiting:
        ready = wait(list(waiting), timeout=max(0.0, end - time.monotonic()))
        if not ready:
            break
        for pipe in ready:
            assert isinstance(pipe, Connection)
            rank = waiting.pop(pipe)
            try:
                error, text, value = pickle.loads(pipe.recv_bytes())  # noqa: S301 - of our own child
            except EOFError:
                error, text, value = None, "it died without a word", None
            if text:
                errors[rank] = error, text
                end = min(end, time.monotonic() + 2)
            results[rank] = value
    for error, _ in errors.values():
        if isinstance(error, UserError):
            raise error
    # who fails because another one has failed says less
    for rank, (error, text) in sorted(
        errors.items(), key=lambda item: isinstance(item[1][0], CollectiveFailed)
    ):
        raise RuntimeError(f"worker {rank} of {len(pipes)} failed: {text}") from error
    if waiting:
        raise RuntimeError(
            f"workers {sorted(waiting.values())} of {len(pipes)} did not answer in {seconds:.0f} s"
        )
    return [results[rank] for rank in range(len(pipes))]


def _be_worker(
    parent: int,
    function: Callable[..., Any],
    rank: int,
    size: int,
    folder: str,
    pipe: Connection,
    args: Sequence[Any],
    seconds: float,
) -> None:
    """Be a worker, and leave at once: what the parent has registered for its end is the parent's."""
    die_with_parent(parent)
    torch.set_num_threads(1)
    try:
        group = None
        if size > 1:
            store = FileStore(f"{folder}/store", size)
            with yielding_threads():
                dist.init_process_group(
                    "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=seconds)
                )
            group = dist.group.WORLD
        workers = Workers(rank, size, group=group)
        workers.barrier()
        message = pickle.dumps((None, "", function(workers, *args)))
        workers.barrier()  # nobody leaves while another one talks
        workers.let_go()
    except BaseException as error:  # noqa: BLE001 - it is the parent's to raise
        message = _told(error)
    pipe.send_bytes(message)
    pipe.close()
    os._exit(0)


def _told(error: BaseException) -> bytes:
    text = "".join(traceback.format_exception(error))
    try:
        message = pickle.dumps((error, text, None))
        pickle.loads(message)  # noqa: S301 - just made
    except Exception:  # noqa: BLE001 - an exception that cannot travel has its text
        message = pickle.dumps((None, text, None))
    return message
