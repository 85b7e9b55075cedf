"""Two machines, as network namespaces of one kernel, with a cable of a certain rate between them, and workers in each.

Between workers of one machine messages take the kernel's loopback; between machines they leave through the cable's end, whose
bytes the kernel counts. This kernel delays no packets (`netem`); it limits rates (`tbf`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.system.forking import fork_context

NEW_NETWORK = 0x40000000  # CLONE_NEWNET
ADDRESSES = ("10.78.0.1", "10.78.0.2")
TIMEOUT = timedelta(seconds=300)


class NoNamespacesError(Exception):
    """Network namespaces cannot be made here: they need root and `ip`."""


@contextlib.contextmanager
def two_machines(megabits: int) -> Iterator[list[str]]:
    """Make two namespaces with a cable between them while a block runs.

    Args:
        megabits: The cable's rate, a second, in each direction; 0 for as fast as the kernel copies.

    Yields:
        The names of the namespaces, and of the end of the cable in each: they are the same.

    Raises:
        NoNamespacesError: If they cannot be made.
    """
    names = [f"zx{os.getpid()}{letter}" for letter in "ab"]
    try:
        try:
            for name in names:
                _run("ip", "netns", "add", name)
            _run("ip", "link", "add", names[0], "type", "veth", "peer", "name", names[1])
            for name, address in zip(names, ADDRESSES, strict=True):
                _run("ip", "link", "set", name, "netns", name)
                _run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", name)
                _run("ip", "-n", name, "link", "set", name, "up")
                _run("ip", "-n", name, "link", "set", "lo", "up")
                if megabits:
                    limits = ("rate", f"{megabits}mbit", "burst", "128kb", "latency", "400ms")
                    _run("tc", "-n", name, "qdisc", "add", "dev", name, "root", "tbf", *limits)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NoNamespacesError(getattr(error, "stderr", None) or str(error)) from error
        yield names
    finally:
        for name in names:  # its end of the cable goes with it
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


def run_on(machines: list[str], local: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Call ``function(workers, *args)`` on some workers of each machine, and return their results in order of rank."""
    context = fork_context()
    world = local * len(machines)
    with tempfile.TemporaryDirectory() as folder:
        processes, pipes = [], []
        for rank in range(world):
            receive, send = context.Pipe(duplex=False)
            seat = (machines[rank // local], rank, world, folder, send)
            process = context.Process(target=_worker, args=(*seat, function, args))
            process.start()
            send.close()
            processes.append(process)
            pipes.append(receive)
        try:
            return [pipe.recv() for pipe in pipes]
        finally:
            for process in processes:
                process.join(timeout=5)
                if process.is_alive():
                    process.kill()
                    process.join()


def _worker(
    machine: str,
    rank: int,
    world: int,
    folder: str,
    pipe: Connection,
    function: Callable[..., Any],
    args: Any,
) -> None:
    torch.set_num_threads(1)
    enter(machine)
    os.environ["GLOO_SOCKET_IFNAME"] = machine
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=TIMEOUT)
    dist.barrier()
    pipe.send(function(Workers(rank, world, group=dist.group.WORLD), *args))
    dist.destroy_process_group()
    os._exit(0)


def enter(machine: str) -> None:
    """Move this process into a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{machine}").open("rb") as namespace:
        if libc.setns(namespace.fileno(), NEW_NETWORK):
            raise OSError(ctypes.get_errno(), f"cannot enter {machine}")


def sent_bytes(machine: str) -> int:
    """Return the bytes that have left this process's machine through its end of the cable, headers included."""
    for line in Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == machine:
            return int(numbers.split()[8])
    raise ValueError(f"no device {machine} here")
