"""Loads the microbatches of each step ahead of time, in loader processes beside the worker.

One item of the loader is one microbatch, so that several loader processes help one step. A loader process makes
the whole microbatch; its tensors, two or three however many images there are, travel through shared memory.
A loader process that dies is replaced: what it would have made is a pure function of the samples' ids.
"""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkContext
from multiprocessing.process import BaseProcess
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader

from ziggurat.data.batch import Microbatch, SampleId
from ziggurat.data.pieces import Failure, Piece, Pieces, Samples
from ziggurat.data.sampler import Sampler
from ziggurat.errors import UserError

Plan = Callable[[int], list[tuple[int, tuple[SampleId, ...]]]]

MAX_DEATHS = 3  # of loader processes over one microbatch
LOOK_SECONDS = 0.5  # between looks whether the loader processes are alive, while there is nothing to receive


@dataclass(frozen=True)
class LoaderSettings:
    """How microbatches are loaded.

    Attributes:
        num_workers: Loader processes; 0 loads in this process.
        pin_memory: Whether the tensors are put into page-locked memory.
        on_error: What happens to a sample that cannot be made: ``stop``, or ``skip`` it for another.
    """

    num_workers: int = 0
    pin_memory: bool = False
    on_error: Literal["stop", "skip"] = "stop"


def _ignore(message: str) -> None:
    """Take note of nothing."""


def _own_side(step: int) -> int:
    return 0


def load_steps(
    samples: Samples,
    sampler: Sampler,
    microbatches_of: Plan,
    first_step: int,
    last_step: int,
    settings: LoaderSettings,
    notice: Callable[[str], None] = _ignore,
    side_of: Callable[[int], int] = _own_side,
) -> Iterator[list[Microbatch]]:
    """Yield this worker's microbatches of each step.

    Closing the iterator ends the loader processes; they also end if this process dies.

    Args:
        samples: Makes the samples.
        sampler: Says which samples a step sees.
        microbatches_of: From a step to the microbatches (index, samples) that this worker computes, in order; a
            pure function. A worker may have none in a step.
        first_step: The first step that is loaded.
        last_step: The step after the last one.
        settings: How they are loaded.
        notice: Is told of loader processes that died and were replaced.
        side_of: From a step to the side of its crops, a pure function; 0 stands for the samples' own.

    Raises:
        UserError: If a sample cannot be made (the message is that of the failing sample), shared memory is
            exhausted, or loader processes die again and again.
        ValueError: If `microbatches_of` names samples that are not in the step's global batch.
    """
    pieces = Pieces(samples, settings.on_error)

    def start(step: int, done: int) -> _Loading:
        schedule = _Schedule(sampler, microbatches_of, side_of, range(step, last_step), done)
        return _Loading(pieces, schedule, settings)

    loading = start(first_step, 0)
    try:
        for step in range(first_step, last_step):
            received: list[Microbatch] = []
            planned, deaths = microbatches_of(step), 0
            while len(received) < len(planned):
                try:
                    received.append(loading.next())
                    deaths = 0
                except _LoaderDied as death:
                    deaths += 1
                    if deaths > MAX_DEATHS:
                        ids = planned[len(received)][1]
                        raise UserError(
                            _deadly(death, deaths, [samples.describe(id) for id in ids])
                        ) from None
                    notice(f"a loader process ended ({death}) and was replaced; its samples are loaded again")
                    loading.close()
                    loading = start(step, len(received))
            yield received
    finally:
        loading.close()


def _deadly(death: _LoaderDied, deaths: int, samples: list[str]) -> str:
    return (
        f"{deaths} loader processes in turn ended ({death}) before they had made the samples {', '.join(samples)}: "
        "SIGKILL speaks of too little memory (lower data.cache_bytes or data.workers), SIGBUS of too little shared "
        "memory (/dev/shm), SIGSEGV of a file that breaks its decoder; --set data.workers=0 loads in the worker itself"
    )


class _LoaderDied(Exception):  # noqa: N818 - reads as what happened
    """A loader process ended by itself; the message says by which signal or status."""


class _Loading:
    """The loader processes of a worker, from some place of the run on."""

    def __init__(self, pieces: Pieces, schedule: _Schedule, settings: LoaderSettings) -> None:
        loader: DataLoader[Microbatch | Failure] = DataLoader(
            pieces,
            batch_size=None,
            sampler=schedule,
            num_workers=settings.num_workers,
            collate_fn=_as_it_is,
            pin_memory=settings.pin_memory,
            timeout=LOOK_SECONDS if settings.num_workers else 0,
            worker_init_fn=_LoaderProcess(os.getpid()) if settings.num_workers else None,
            multiprocessing_context=_LoaderContext() if settings.num_workers else None,
            generator=torch.Generator(),  # leaves the global generator alone
        )
        before, handler = set(multiprocessing.active_children()), signal.getsignal(signal.SIGCHLD)
        self._iterator = iter(loader)
        self._processes = [child for child in multiprocessing.active_children() if child not in before]
        # torch's handler would raise wherever the worker is, in the midst of a step; `next` looks for itself
        if self._processes and signal.getsignal(signal.SIGCHLD) is not handler:
            signal.signal(signal.SIGCHLD, handler)

    def next(self) -> Microbatch:
        """Return the next microbatch.

        Raises:
            UserError: If it cannot be made.
            _LoaderDied: If a loader process is no more.
        """
        while True:
            try:
                item: Microbatch | Failure = next(self._iterator)
                break
            except (RuntimeError, OSError, EOFError) as error:  # torch's words depend on when a process ended
                waiting = "timed out" in str(error)
                dead = [process for process in self._processes if _has_ended(process, 0 if waiting else 1)]
                if dead:
                    raise _LoaderDied(_end_of(dead[0])) from None
                if not waiting:
                    raise
        if isinstance(item, Failure):
            raise UserError(item.faults)
        return item

    def close(self) -> None:
        """End the loader processes at once: one may wait for a lock that a dead one held."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        del self._iterator


class _LoaderContext(ForkContext):
    """Forks the loader processes, which so share the data set's pages, and tells them of the end without a lock."""

    def Event(self) -> Any:
        return _Flag()


class _Flag:
    """An event of a process and its forked children that nobody can be killed in the midst of.

    Python's own guards itself by a lock: a loader process that is killed while it looks leaves the lock taken, and
    the worker, which sets the event when it closes its loader, waits for ever (pytorch issue 39570).
    """

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)  # anonymous and shared

    def set(self) -> None:
        self._byte[0] = 1

    def is_set(self) -> bool:
        return bool(self._byte[0])


def _has_ended(process: BaseProcess, seconds: float) -> bool:
    return bool(multiprocessing.connection.wait([process.sentinel], seconds))


def _end_of(process: BaseProcess) -> str:
    process.join()
    status = process.exitcode or 0
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


class _Schedule:
    """Every microbatch that this worker computes, step after step; made while it is walked through.

    Args:
        sampler: Says which samples a step sees.
        microbatches_of: This worker's microbatches of a step.
        side_of: The side of a step's crops.
        steps: Of the whole run.
        done: Microbatches of the first step that there is no need for.
    """

    def __init__(
        self,
        sampler: Sampler,
        microbatches_of: Plan,
        side_of: Callable[[int], int],
        steps: range,
        done: int,
    ) -> None:
        self._sampler = sampler
        self._microbatches_of = microbatches_of
        self._side_of = side_of
        self._steps = steps
        self._done = done

    def __iter__(self) -> Iterator[Piece]:
        for step in self._steps:
            batch = set(self._sampler.batch(step))
            skipped = self._done if step == self._steps.start else 0
            for index, ids in self._microbatches_of(step)[skipped:]:
                if not batch.issuperset(ids):
                    raise ValueError(f"microbatch {index} of step {step} holds samples of another step")
                yield Piece(index, ids, self._side_of(step))


def _as_it_is(item: Any) -> Any:
    return item


class _LoaderProcess:
    """Prepares a loader process (called by torch inside it).

    Args:
        parent: Process id of the worker that it serves.
    """

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def __call__(self, number: int) -> None:
        torch.set_num_threads(1)
        for number in (
            signal.SIGINT,
            signal.SIGTERM,
            signal.SIGUSR1,
        ):  # may reach the whole group; the worker ends us
            signal.signal(number, signal.SIG_IGN)
        if sys.platform == "linux":
            ask_kernel_to_die_with_parent = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
            ctypes.CDLL(None, use_errno=True).prctl(ask_kernel_to_die_with_parent, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self._parent:  # it died before we asked
            os._exit(1)
