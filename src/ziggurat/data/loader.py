"""Loads the microbatches of each step ahead of time, in loader processes beside the worker.

One item of the loader is one microbatch, so that several loader processes help one step. A loader process makes
the whole microbatch; its tensors, two or three however many images there are, travel through shared memory.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from ziggurat.data.batch import Microbatch, Sample, SampleId, stack_targets
from ziggurat.data.sampler import Sampler
from ziggurat.errors import UserError

Plan = Callable[[int], list[tuple[int, tuple[SampleId, ...]]]]


class Samples(Protocol):
    """Makes samples by their ids."""

    def sample(self, id: SampleId) -> Sample:
        """Return one sample."""
        ...


@dataclass(frozen=True)
class _Piece:
    """Names one microbatch."""

    index: int
    ids: tuple[SampleId, ...]


@dataclass(frozen=True)
class _Failure:
    """A user's error in a loader process; torch would wrap its message in a traceback."""

    faults: list[str]


class _Pieces(Dataset["Microbatch | _Failure"]):
    """The loader's view of the samples: from a piece to a microbatch."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __getitem__(self, piece: _Piece) -> Microbatch | _Failure:
        try:
            return _collate(piece, [self._samples.sample(id) for id in piece.ids])
        except UserError as error:
            return _Failure(error.faults)


def _collate(piece: _Piece, samples: list[Sample]) -> Microbatch:
    part = samples[0].part
    if part is not None:
        return Microbatch(
            piece.index,
            piece.ids,
            torch.stack([sample.image_CHW for sample in samples]),
            ((part.height, part.width),) * len(samples),
            stack_targets([sample.target for sample in samples], part.own.height, part.own.width),
            part,
        )
    height = max(sample.image_CHW.shape[1] for sample in samples)
    width = max(sample.image_CHW.shape[2] for sample in samples)
    images = torch.zeros((len(samples), 3, height, width), dtype=torch.uint8)
    for place, sample in zip(images, samples, strict=True):
        rows, columns = sample.image_CHW.shape[1:]
        place[:, :rows, :columns] = sample.image_CHW
    return Microbatch(
        piece.index,
        piece.ids,
        images,
        tuple((sample.image_CHW.shape[1], sample.image_CHW.shape[2]) for sample in samples),
        stack_targets([sample.target for sample in samples], height, width),
    )


def load_steps(
    samples: Samples,
    sampler: Sampler,
    microbatches_of: Plan,
    first_step: int,
    last_step: int,
    num_workers: int,
    pin_memory: bool,
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
        num_workers: Loader processes; 0 loads in this process.
        pin_memory: Whether the tensors are put into page-locked memory.

    Raises:
        UserError: If a sample cannot be made; the message is that of the failing sample.
        ValueError: If `microbatches_of` names samples that are not in the step's global batch.
    """
    pieces = _Schedule(sampler, microbatches_of, first_step, last_step)
    loader: DataLoader[Microbatch | _Failure] = DataLoader(
        _Pieces(samples),
        batch_size=None,
        sampler=pieces,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        worker_init_fn=_LoaderProcess(os.getpid()) if num_workers else None,
        multiprocessing_context="fork" if num_workers else None,  # shares the data set's pages
        generator=torch.Generator(),  # leaves the global generator alone
    )
    iterator = iter(loader)
    try:
        for step in range(first_step, last_step):
            yield [_received(next(iterator)) for _ in microbatches_of(step)]
    finally:
        del iterator  # ends the loader processes


class _Schedule:
    """Every microbatch that this worker computes, step after step; made while it is walked through."""

    def __init__(self, sampler: Sampler, microbatches_of: Plan, first_step: int, last_step: int) -> None:
        self._sampler = sampler
        self._microbatches_of = microbatches_of
        self._steps = range(first_step, last_step)

    def __iter__(self) -> Iterator[_Piece]:
        for step in self._steps:
            batch = set(self._sampler.batch(step))
            for index, ids in self._microbatches_of(step):
                if not batch.issuperset(ids):
                    raise ValueError(f"microbatch {index} of step {step} holds samples of another step")
                yield _Piece(index, ids)


def _received(item: Microbatch | _Failure) -> Microbatch:
    if isinstance(item, _Failure):
        raise UserError(item.faults)
    return item


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
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the worker ends us
        if sys.platform == "linux":
            ask_kernel_to_die_with_parent = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
            ctypes.CDLL(None, use_errno=True).prctl(ask_kernel_to_die_with_parent, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self._parent:  # it died before we asked
            os._exit(1)
