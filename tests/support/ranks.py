"""Runs a function on several workers in a test: fork, gloo, a file store, one thread each.

A failure on any worker fails the test with that worker's traceback; a worker that hangs is killed.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.system.forking import fork_context
from ziggurat.system.scheduling import yielding_threads

TIMEOUT_SECONDS = 150


def run_ranks(
    function: Callable[..., Any],
    world: int = 2,
    args: tuple = (),
    seconds: float = TIMEOUT_SECONDS,
    grace: float = 0.5,
) -> list[Any]:
    """Call ``function(workers, *args)`` on `world` forked workers and return their results in order of rank.

    After `seconds` without an answer of all they are ended; a worker waits as long for another. Once one has
    failed, others may end by themselves for `grace` seconds.

    With ``world=1`` it is called in a forked process without a process group, as the program does.
    """
    context = fork_context()
    with tempfile.TemporaryDirectory() as folder:
        processes, pipes = [], []
        for rank in range(world):
            receive, send = context.Pipe(duplex=False)
            process = context.Process(target=_main, args=(function, rank, world, folder, send, args, seconds))
            process.start()
            send.close()
            processes.append(process)
            pipes.append(receive)
        try:
            return _collect(pipes, seconds)
        finally:
            for process in processes:
                process.join(timeout=grace)
                if process.is_alive():
                    os.kill(process.pid, signal.SIGKILL)
                    process.join()
                process.close()
            for pipe in pipes:
                pipe.close()


def _collect(pipes: list[Connection], seconds: float) -> list[Any]:
    """Wait for one message of each pipe; the first failure ends the wait."""
    results: dict[int, Any] = {}
    deadline = time.monotonic() + seconds
    waiting = {pipe: rank for rank, pipe in enumerate(pipes)}
    while waiting:
        ready = wait(list(waiting), timeout=deadline - time.monotonic())
        if not ready:
            raise TimeoutError(f"workers {sorted(waiting.values())} did not end in {seconds:.0f} s")
        for pipe in ready:
            rank = waiting.pop(pipe)
            try:
                error, value = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our own child process
            except EOFError:
                raise RuntimeError(f"worker {rank} died without a word") from None
            if error is not None:
                raise RuntimeError(f"worker {rank} failed:\n{error}") from value
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]


def _main(
    function: Callable[..., Any],
    rank: int,
    world: int,
    folder: str,
    pipe: Connection,
    args: tuple,
    seconds: float,
) -> None:
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(
        max(0.9 * seconds, seconds - 5)
    )  # where it hangs, among what the test prints
    try:
        if world > 1:
            with yielding_threads():
                dist.init_process_group(
                    "gloo",
                    store=dist.FileStore(f"{folder}/store", world),
                    rank=rank,
                    world_size=world,
                    timeout=timedelta(seconds=seconds),
                )
            dist.barrier()  # a function may communicate nothing: nobody leaves before all are connected
        workers = Workers(rank, world, group=dist.group.WORLD if world > 1 else None)
        message = pickle.dumps((None, function(workers, *args)))
    except BaseException as error:  # noqa: BLE001 - everything is reported to the test
        text = traceback.format_exc()
        try:
            message = pickle.dumps((text, error))
        except Exception:  # noqa: BLE001 - an exception that cannot travel still has its text
            message = pickle.dumps((text, None))
    pipe.send_bytes(message)
    pipe.close()
    if dist.is_initialized() and message and pickle.loads(message)[0] is None:  # noqa: S301 - our own bytes
        workers.let_go()  # what it has sent is on its way then
        dist.destroy_process_group()
    os._exit(0)
