"""Loads the microbatches of each step ahead of time, in loader processes beside the worker.

One thing that is asked for is one microbatch, so that several loader processes help one step. A loader process makes
the whole microbatch, which travels through shared memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ziggurat.data.batch import Microbatch, SampleId
from ziggurat.data.crop_sizes import CropShape
from ziggurat.data.loading.ordered import DiedAgainAndAgain, OrderedLoading
from ziggurat.data.loading.process import Broken
from ziggurat.data.pieces import Failure, Piece, Pieces, Samples
from ziggurat.data.sampler import Sampler
from ziggurat.errors import UserError

Plan = Callable[[int], list[tuple[int, tuple[SampleId, ...]]]]
ShapeOf = Callable[[int], CropShape | None]


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


def _own_shape(step: int) -> None:
    """Take crops of the samples' own shape."""


def load_steps(
    samples: Samples,
    sampler: Sampler,
    microbatches_of: Plan,
    first_step: int,
    last_step: int,
    settings: LoaderSettings,
    notice: Callable[[str], None] = _ignore,
    shape_of: ShapeOf = _own_shape,
) -> Iterator[list[Microbatch]]:
    """Yield this worker's microbatches of each step.

    Closing the iterator ends the loader processes; they also end if this process dies.

    Args:
        samples: Makes the samples.
        sampler: Says which samples a step sees.
        microbatches_of: From a step to the microbatches (index, samples) that this worker computes, in order. A worker may have
            none in a step. Between two steps it may change its mind: what was loaded ahead is then thrown away.
        first_step: The first step that is loaded.
        last_step: The step after the last one.
        settings: How they are loaded.
        notice: Is told of loader processes that died and were replaced.
        shape_of: From a step to the shape of its crops, a pure function; None stands for the samples' own.

    Raises:
        UserError: If a sample cannot be made (the message is that of the failing sample), shared memory is
            exhausted, or loader processes die again and again.
        RuntimeError: If a loader process fails in another way; the message is its traceback.
        ValueError: If `microbatches_of` names samples that are not in the step's global batch.
    """
    pieces = Pieces(samples, settings.on_error)
    plan = _Planned(sampler, microbatches_of, shape_of, last_step)
    schedule = plan.pieces(first_step)
    loading: _Loading
    if settings.num_workers:
        loading = OrderedLoading(pieces.make, schedule, settings.num_workers, notice)
    else:
        loading = _Here(pieces, schedule)
    try:
        for step in range(first_step, last_step):
            wanted = microbatches_of(step)
            if plan.is_other(step, wanted):
                loading.ask_instead(plan.pieces(step))
            made = [_next(loading, samples) for _ in wanted]
            yield [microbatch.pin_memory() for microbatch in made] if settings.pin_memory else made
    finally:
        loading.close()


class _Planned:
    """What this worker computes in the steps to come, as it was when it was asked for.

    Args:
        sampler: Says which samples a step sees.
        microbatches_of: As `load_steps` has it.
        shape_of: As `load_steps` has it.
        last_step: The step after the last one.
    """

    def __init__(self, sampler: Sampler, microbatches_of: Plan, shape_of: ShapeOf, last_step: int) -> None:
        self._sampler, self._microbatches_of, self._shape_of = sampler, microbatches_of, shape_of
        self._last_step, self._now = last_step, 0
        self._asked: dict[int, list[tuple[int, tuple[SampleId, ...]]]] = {}

    def pieces(self, first_step: int) -> Iterator[Piece]:
        """Yield every microbatch of this worker, step after step; steps that are over by then had none."""
        self._asked.clear()
        for step in range(first_step, self._last_step):
            if step < self._now:
                continue
            batch, mine = set(self._sampler.batch(step)), self._microbatches_of(step)
            self._asked[step] = mine
            for index, ids in mine:
                if not batch.issuperset(ids):
                    raise ValueError(f"microbatch {index} of step {step} holds samples of another step")
                yield Piece(index, ids, self._shape_of(step))

    def is_other(self, step: int, wanted: list[tuple[int, tuple[SampleId, ...]]]) -> bool:
        """Begin a step, and return whether what was asked for it ahead is not what is wanted now."""
        self._now = step
        for before in [one for one in self._asked if one < step]:
            del self._asked[before]
        return self._asked.get(step, wanted) != wanted


class _Loading(Protocol):
    """Microbatches, or what is in their way, one after the other."""

    def next(self) -> Any: ...

    def ask_instead(self, schedule: Iterator[Piece]) -> None: ...

    def close(self) -> None: ...


class _Here:
    """Makes microbatches in this process, when they are asked for."""

    def __init__(self, pieces: Pieces, schedule: Iterator[Piece]) -> None:
        self._pieces = pieces
        self._schedule = schedule

    def next(self) -> Microbatch | Failure:
        """Return the next microbatch."""
        return self._pieces.make(next(self._schedule))

    def ask_instead(self, schedule: Iterator[Piece]) -> None:
        """Make others from now on: nothing was made ahead."""
        self._schedule = schedule

    def close(self) -> None:
        """Nothing was started."""


def _next(loading: _Loading, samples: Samples) -> Microbatch:
    """Return the next microbatch, or raise what is in its way as the user is to read it."""
    try:
        made = loading.next()
    except DiedAgainAndAgain as death:
        assert isinstance(death.asked, Piece)
        raise UserError(_deadly(death, [samples.describe(id) for id in death.asked.ids])) from None
    if isinstance(made, Failure):
        raise UserError(made.faults)
    if isinstance(made, Broken) and made.is_exhausted:
        raise UserError(_exhausted(made))
    if isinstance(made, Broken):
        raise RuntimeError(f"a loader process failed:\n{made.text}")
    assert isinstance(made, Microbatch)
    return made


def _deadly(death: DiedAgainAndAgain, samples: list[str]) -> str:
    return (
        f"{death.deaths} loader processes in turn ended ({death}) before they had made the samples "
        f"{', '.join(samples)}: "
        "SIGKILL speaks of too little memory (lower data.cache_bytes or data.workers), SIGBUS of too little shared "
        "memory (/dev/shm), SIGSEGV of a file that breaks its decoder; --set data.workers=0 loads in the worker itself"
    )


def _exhausted(broken: Broken) -> str:
    return (
        f"a loader process cannot pass on a microbatch of {broken.text}; make it larger (docker run --shm-size=8g), load in "
        "the worker itself (--set data.workers=0), or use a smaller batch"
    )
