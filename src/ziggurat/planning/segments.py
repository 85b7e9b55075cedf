"""A program in the form in which it is simulated: kernels that follow one another are one segment of computing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ziggurat.planning.program import Kernel, Mark, Program, Start, Wait


class Segment(NamedTuple):
    """Computing without a message in between.

    Attributes:
        seconds: On a core of its own.
        number: How many segments the worker has had before.
    """

    seconds: float
    number: int


class Begin(NamedTuple):
    """A message or collective that begins.

    Attributes:
        number: How many the worker has begun before.
    """

    number: int


Action = Segment | Begin | Wait | Mark


def nothing(start: Start) -> float:
    """Return the seconds that a message costs whoever begins it, where that is not counted."""
    return 0.0


def actions_of(
    program: Program,
    seconds: Callable[[Kernel], float],
    begin: Callable[[Start], float] = nothing,
    before: float = 0.0,
) -> list[Action]:
    """Return what a worker does, with kernels added up between messages and marks.

    Args:
        program: Of the worker.
        seconds: Of a kernel.
        begin: Seconds of computing that a message or collective costs whoever begins it.
        before: Seconds of computing that come before all.

    Example:
        >>> kernel = Kernel("aten.relu.default", ())
        >>> actions_of(Program(0, (kernel, kernel, Start("barrier", (0, 1)), Wait(0))), lambda one: 1.5)
        [Segment(seconds=3.0, number=0), Begin(number=0), Wait(start=0)]
    """
    actions: list[Action] = []
    known: dict[int, float] = {}  # by identity: equal kernels are one object, and to hash one takes longer
    computing, begun, segments = before, 0, 0
    for event in program.events:
        if isinstance(event, Kernel):
            if id(event) not in known:
                known[id(event)] = seconds(event)
            computing += known[id(event)]
            continue
        if isinstance(event, Start):
            computing += begin(event)
        if computing:
            actions.append(Segment(computing, segments))
            computing, segments = 0.0, segments + 1
        if isinstance(event, Start):
            actions.append(Begin(begun))
            begun += 1
        else:
            actions.append(event)
    return [*actions, Segment(computing, segments)] if computing else actions


@dataclass(frozen=True)
class Jitter:
    """How computing varies: from segment to segment, and from worker to worker.

    Attributes:
        deviation: Of the logarithm of a segment's seconds, each drawn by itself; their mean stays.
        slow: By rank, how many times as long a worker takes for everything; others 1.
        seed: Of what is drawn.
    """

    deviation: float = 0.0
    slow: tuple[tuple[int, float], ...] = ()
    seed: int = 0

    def factors(self, segment: int, num_workers: int) -> NDArray[np.float64]:
        """Return what the seconds of every worker's segment of a number are multiplied with.

        Example:
            >>> Jitter(slow=((1, 2.0),)).factors(0, 3)
            array([1., 2., 1.])
        """
        drawn = np.ones(num_workers)
        if self.deviation:
            normal = np.random.default_rng([self.seed, segment]).standard_normal(num_workers)
            drawn = np.exp(self.deviation * normal - self.deviation**2 / 2)
        for rank, factor in self.slow:
            drawn[rank] *= factor
        return drawn
