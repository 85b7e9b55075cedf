"""What a step takes beside its kernels: Python, autograd and the dispatcher around each call; the bookkeeping of each message.

Kernels are measured by themselves, so this is what is left of real steps. It is found from a few small ones on one worker and on
two, where it weighs most:

    seconds of a step = seconds of its kernels + calls * call + messages * start + operations on spread tensors + step

What messages and operations on spread tensors take is measured by itself where it can be (`calibration`, `spread`).

Calls are those of all operators that the dispatcher sees: kernels, and what computes nothing (views, new memory), which a step has
twice as many of.

On several workers of one machine messages are started by all at once, so each has its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple, Protocol

import numpy as np

from ziggurat.planning.amounts import is_free
from ziggurat.planning.program import Kernel, Program, Start, is_spread_operation


class Overheads(NamedTuple):
    """Seconds beside kernels.

    Attributes:
        call: Of each call of an operator, also of those that compute nothing.
        start: Of each message or collective that begins, on each worker.
        step: Of a step.
    """

    call: float = 0.0
    start: float = 0.0
    step: float = 0.0


class Sample(NamedTuple):
    """A real step.

    Attributes:
        calls: Of operators, how many it had.
        starts: Messages and collectives.
        kernel_seconds: What its kernels take, as the table has it.
        seconds: What it took, without waiting for others.
    """

    calls: int
    starts: int
    kernel_seconds: float
    seconds: float


class Costs(Protocol):
    """What kernels cost by themselves: `costs.CostTable`, or what stands in its place."""

    def known(self, kernel: Kernel) -> bool:
        """Whether the seconds of a kernel are known."""
        ...

    def measure(self, kernels: Iterable[Kernel]) -> None:
        """Find out what kernels take that are not known."""
        ...

    def seconds(self, kernel: Kernel) -> float:
        """Return what a kernel takes."""
        ...


class WithOverheads:
    """Costs of kernels with what is around them: stands in the place of a `CostTable`.

    Args:
        costs: Of kernels by themselves.
        overheads: Beside them.
        spread: Seconds of operations on spread tensors, by their names in a program; of others of the same kind, or all others, the mean.
        begins: Seconds that each message takes the worker's own thread; None where `overheads` has them.
    """

    def __init__(
        self, costs: Costs, overheads: Overheads, spread: Mapping[str, float] | None = None,
        begins: Callable[[Start], float] | None = None,
    ) -> None:  # fmt: skip
        self.costs, self.overheads, self.spread = costs, overheads, dict(spread or {})
        self.begins = begins

    def known(self, kernel: Kernel) -> bool:
        """Whether the seconds of a kernel are known."""
        return is_spread_operation(kernel) or self.costs.known(kernel)

    def measure(self, kernels: Iterable[Kernel]) -> None:
        """Find out what kernels take that are not known."""
        self.costs.measure(kernels)

    def seconds(self, kernel: Kernel) -> float:
        """Return what a kernel takes, with what calls it."""
        if is_spread_operation(kernel):
            return self._of_operation(kernel.name)
        return self.costs.seconds(kernel) + self.overheads.call

    def begin(self, start: Start) -> float:
        """Return what it takes a worker to begin a message or collective, before it waits for it."""
        return self.overheads.start if self.begins is None else self.begins(start)

    def _of_operation(self, name: str) -> float:
        if name in self.spread or not self.spread:
            return self.spread.get(name, 0.0)
        alike = [s for other, s in self.spread.items() if other.split(",")[1:] == name.split(",")[1:]]
        return fmean(alike or self.spread.values())


def sample_of(program: Program, costs: Costs, seconds: float) -> Sample:
    """Return a real step as a sample.

    Args:
        program: Of a worker.
        costs: Know its kernels.
        seconds: That it took this worker, without waiting for others.
    """
    calls = {kernel: count for kernel, count in program.kernels.items() if not is_spread_operation(kernel)}
    starts = sum(isinstance(event, Start) for event in program.events)
    taken = sum(count * costs.seconds(kernel) for kernel, count in calls.items() if not is_free(kernel))
    return Sample(sum(calls.values()), starts, taken, seconds)


def fit_overheads(samples: Sequence[Sample], least_call: float = 0.0) -> Overheads:
    """Return the overheads by which samples are off least, relative to each; none is below zero.

    Args:
        samples: One or more; some with messages, or `start` is 0.
        least_call: Seconds that a call takes at least: kernels that were measured a little too slow hide what calls take.

    Raises:
        ValueError: Without samples.

    Example:
        >>> fit_overheads([Sample(1000, 0, 1.0, 1.02), Sample(4000, 0, 2.0, 2.05)])
        Overheads(call=1e-05, start=0.0, step=0.01)
    """
    if not samples:
        raise ValueError("overheads are fitted to real steps: got none")
    weights = np.array([1 / one.seconds for one in samples])
    columns = np.array([(one.calls, one.starts, 1.0) for one in samples]) * weights[:, None]
    missing = np.array([s.seconds - s.kernel_seconds - s.calls * least_call for s in samples]) * weights
    best, least = np.zeros(3), float((missing**2).sum())
    # of the few choices of what is zero, the one that fits best with nothing below zero
    for count in (1, 2, 3):
        for chosen in itertools.combinations(range(3), count):
            found, *_ = np.linalg.lstsq(columns[:, chosen], missing, rcond=None)
            if (found < 0).any():
                continue
            whole = np.zeros(3)
            whole[list(chosen)] = found
            off = float(((columns @ whole - missing) ** 2).sum())
            if off < least * (1 - 1e-6):
                best, least = whole, off
    best[0] += least_call
    return Overheads(*(float(f"{value:.6g}") for value in best))
