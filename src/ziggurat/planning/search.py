"""Which plans there are for so many workers, and which of them are best: enumerated, bounded, simulated.

    every product of axes  --rules-->  refused, with why
             |
             v  lower bounds, by `Plan.estimate` from the step of one worker
    simulated from the lowest bound on, until no plan that is left can be among the best, or the time is spent

A plan that takes too much memory comes again with the settings that take less.

There is no solver: workers that are a power of two have some hundreds of products. What is left when the search ends is told with its
bound, and so is whether the best are known to be the best.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ziggurat.config.names import shown_name
from ziggurat.errors import UserError
from ziggurat.planning.simulate import Simulated
from ziggurat.strategies.plan import Plan, parse_plan
from ziggurat.strategies.registry import STRATEGIES


@dataclass(frozen=True)
class Candidate:
    """A plan, and how it is carried out.

    Attributes:
        plan: Degrees of the axes.
        settings: Of its axes, by dotted names, with their values.
    """

    plan: Plan
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def identity(self) -> tuple[Plan, frozenset[tuple[str, Any]]]:
        """What two candidates have in common that are the same, in whatever order their settings stand."""
        return self.plan, frozenset(self.settings)

    def __str__(self) -> str:
        return " ".join([str(self.plan), *(f"{shown_name(key)}={value}" for key, value in self.settings)])


class Refused(NamedTuple):
    """A candidate that is not taken.

    Attributes:
        candidate: Which one.
        reason: Why, in the words of the rule that it breaks.
    """

    candidate: Candidate
    reason: str


class Judged(NamedTuple):
    """A candidate that was simulated.

    Attributes:
        candidate: Which one.
        step: What it comes to.
    """

    candidate: Candidate
    step: Simulated


@dataclass(frozen=True)
class Found:
    """What a search comes to.

    Attributes:
        best: Simulated plans that may be taken, the fastest first.
        refused: What cannot be.
        left: Candidates that were not simulated, with the bound of their seconds.
        is_certain: Whether none that is left can be among the best that were asked for; the others were left as the time was spent.
    """

    best: tuple[Judged, ...]
    refused: tuple[Refused, ...]
    left: tuple[tuple[Candidate, float], ...]
    is_certain: bool


def plans_of(num_workers: int, num_dims: int = 2) -> Iterator[Plan]:
    """Yield every product of axes for so many workers, whether they go together or not, each once.

    Args:
        num_workers: Of all.
        num_dims: Spatial dims of an image.

    Example:
        >>> [str(plan) for plan in plans_of(2)]
        ['dp=2', 'fsdp=2', 'sp=2', 'sp=1x2', 'pp=2', 'tp=2', 'lp=2']
    """
    # of an axis that takes a grid, the degrees of two dims; a dim that images do not have has one worker
    slots = [
        (axis, place)
        for axis, strategy in STRATEGIES.items()
        for place in range(2 if strategy.takes_grid and num_dims > 1 else 1)
    ]
    for degrees in _products(num_workers, len(slots)):
        grids: dict[str, tuple[int, ...]] = {}
        for (axis, _), degree in zip(slots, degrees, strict=True):
            grids[axis] = (*grids.get(axis, ()), degree)
        yield Plan(**grids)


def _products(number: int, count: int) -> Iterator[tuple[int, ...]]:
    """Yield the tuples of so many positive numbers whose product is a number.

    Example:
        >>> list(_products(4, 2))
        [(4, 1), (2, 2), (1, 4)]
    """
    if count == 1:
        yield (number,)
        return
    for first in range(number, 0, -1):
        if number % first == 0:
            for others in _products(number // first, count - 1):
                yield (first, *others)


def variants_of(plan: Plan, fixed: Mapping[str, Any]) -> Iterator[Candidate]:
    """Yield the ways in which a plan may be carried out.

    Args:
        plan: Of several workers, or one.
        fixed: Settings that the user has chosen.
    """
    tried = {
        key: values
        for axis in plan.degrees
        for key, values in STRATEGIES[axis].variants.items()
        if key not in fixed
    }
    for chosen in itertools.product(*tried.values()):
        yield Candidate(plan, tuple(zip(tried, chosen, strict=True)))


def savers_of(candidate: Candidate, fixed: Mapping[str, Any]) -> Iterator[Candidate]:
    """Yield a candidate with one more setting that takes less memory.

    Args:
        candidate: Takes too much.
        fixed: Settings that the user has chosen.

    Example:
        >>> [str(one) for one in savers_of(Candidate(Plan(dp=2, pp=2)), {"pipeline.checkpoint": "none"})]
        ['dp=2,pp=2 plan.shard_optimizer=True']
    """
    for axis in candidate.plan.degrees:
        for key, value in STRATEGIES[axis].savers.items():
            if key not in fixed and key not in dict(candidate.settings):
                yield Candidate(candidate.plan, (*candidate.settings, (key, value)))


def candidates_of(
    num_workers: int,
    num_dims: int,
    fixed: Mapping[str, Any],
    check: Callable[[Plan], None],
    is_looked_at: Callable[[Plan], bool] = lambda plan: True,
) -> tuple[list[Candidate], list[Refused]]:
    """Return the plans for so many workers that break no rule, in all their variants, and those that do.

    Args:
        num_workers: Of all.
        num_dims: Spatial dims of an image.
        fixed: Settings that the user has chosen.
        check: Raises UserError for a plan that the run refuses: its batch is too small, or its images.
        is_looked_at: Whether a plan is among either.
    """
    taken: list[Candidate] = []
    refused: list[Refused] = []
    for plan in plans_of(num_workers, num_dims):
        if not is_looked_at(plan):
            continue
        try:
            parse_plan(str(plan))
            check(plan)
        except UserError as error:
            refused.append(Refused(Candidate(plan), str(error)))
        else:
            taken += variants_of(plan, fixed)
    return taken, refused


def search(
    candidates: Sequence[Candidate],
    bound: Callable[[Candidate], float],
    judge: Callable[[Candidate], Simulated | Refused],
    num_best: int = 10,
    seconds: float = math.inf,
    memory: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
    savers: Callable[[Candidate], Iterable[Candidate]] = lambda candidate: (),
    cost: Callable[[Candidate], float] = lambda candidate: 0.0,
) -> Found:
    """Simulate candidates from the lowest bound on, until the best are certain or the time is spent.

    Args:
        candidates: That break no rule.
        bound: The least seconds that a step can take.
        judge: Simulates a step; or refuses it, in the network's words.
        num_best: How many are to be certain.
        seconds: No simulation begins later, but for the first.
        memory: Bytes of a worker; what takes more is refused.
        clock: Says the time in seconds.
        savers: From a candidate that takes too much memory to those that may take less.
        cost: About how many seconds it takes to judge a candidate: one that would end later is left.
    """
    begin = clock()
    candidates = list(candidates)
    known = {one.identity for one in candidates}
    # of equal bounds the first is looked at first; what saves memory in the place of what it saves
    waiting = sorted(((bound(one), place, place) for place, one in enumerate(candidates)), reverse=True)
    done: list[Judged] = []
    refused: list[Refused] = []
    too_long: list[tuple[float, int, int]] = []
    while waiting:
        least, place, number = waiting[-1]
        certain = len(done) >= num_best and least >= done[num_best - 1].step.seconds
        if certain or ((done or refused) and clock() - begin >= seconds):
            break
        waiting.pop()
        if clock() - begin + cost(candidates[number]) > seconds and (done or refused):
            too_long.append((least, place, number))
            continue
        judged = judge(candidates[number])
        if isinstance(judged, Refused):
            refused.append(judged)
            continue
        peak = max(judged.peak_bytes)
        if peak > memory:
            reason = f"a worker needs {peak / 1e9:.2f} GB, and has {memory / 1e9:.2f} GB"
            refused.append(Refused(candidates[number], reason))
            for one in savers(candidates[number]):
                if one.identity not in known:
                    known.add(one.identity)
                    candidates.append(one)
                    waiting.append((max(least, bound(one)), place, len(candidates) - 1))
            waiting.sort(reverse=True)
            continue
        done.append(Judged(candidates[number], judged))
        done.sort(key=lambda one: one.step.seconds)
    left = tuple((candidates[number], least) for least, _, number in sorted(waiting + too_long))
    is_certain = not left or (len(done) >= num_best and left[0][1] >= done[num_best - 1].step.seconds)
    return Found(tuple(done), tuple(refused), left, is_certain)
