"""Schedules of a pipeline: in which order each worker computes forward and backward of which microbatch.

A schedule is a pure function of two or three numbers. It says nothing of messages: what a stage needs is received
before it runs, and what it makes is sent, without waiting, when it has run. So an order is free of deadlocks exactly if
what an action needs never lies behind it (`simulation.run_order` finds out).

In the tables time runs to the right, ``F2`` is forward of microbatch 2, ``B2`` its backward; one of each takes a column.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from ziggurat.errors import UserError

Kind = Literal["forward", "backward"]
ScheduleName = Literal["gpipe", "1f1b", "interleaved"]
CHUNKS = 2  # stages of a worker under the interleaved schedule


class Action(NamedTuple):
    """What a worker does at a time."""

    kind: Kind
    stage: int
    microbatch: int

    def __str__(self) -> str:
        return f"{self.kind[0].upper()}{self.microbatch}@{self.stage}"


Order = list[Action]


def make_schedule(name: str, num_workers: int, num_microbatches: int) -> list[Order]:
    """Return the order of each worker.

    Args:
        name: ``gpipe``, ``1f1b`` or ``interleaved``.
        num_workers: Workers of the pp axis.
        num_microbatches: May be smaller than the number of workers; 0 gives empty orders.

    Raises:
        UserError: If the name is unknown.
    """
    if name == "gpipe":
        return gpipe(num_workers, num_microbatches)
    if name == "1f1b":
        return one_forward_one_backward(num_workers, num_microbatches)
    if name == "interleaved":
        return interleaved(num_workers, CHUNKS, num_microbatches)
    raise UserError(f"plan.schedule must be one of {', '.join(get_args(ScheduleName))}: got '{name}'")


def num_stages(name: str, num_workers: int) -> int:
    """Return how many stages a schedule takes: one for each worker, or several."""
    return num_workers * (CHUNKS if name == "interleaved" else 1)


def forward_only(num_workers: int, num_stages: int, num_microbatches: int) -> list[Order]:
    """Return the orders of inference: every microbatch goes forward, stage ``s`` on worker ``s % num_workers``."""
    return [
        [
            Action("forward", stage, microbatch)
            for microbatch in range(num_microbatches)
            for stage in range(worker, num_stages, num_workers)
        ]
        for worker in range(num_workers)
    ]


def gpipe(num_stages: int, num_microbatches: int) -> list[Order]:
    """All forwards, then all backwards: simple, and every activation is alive at the turn.

        stage 0   F0 F1 F2 F3             B0 B1 B2 B3
        stage 1      F0 F1 F2 F3       B0 B1 B2 B3
        stage 2         F0 F1 F2 F3 B0 B1 B2 B3

    Alive at once: ``M`` microbatches on every stage. Share of time without work: ``(P - 1) / (M + P - 1)``.

    References:
        Huang et al., GPipe, 2019, section 2.3. https://arxiv.org/abs/1811.06965
    """
    return [
        [Action("forward", stage, m) for m in range(num_microbatches)]
        + [Action("backward", stage, m) for m in range(num_microbatches)]
        for stage in range(num_stages)
    ]


def one_forward_one_backward(num_stages: int, num_microbatches: int) -> list[Order]:
    """A stage goes backward as soon as it can: the same bubble, fewer activations.

        stage 0   F0 F1 F2       B0 F3 B1    B2    B3
        stage 1      F0 F1    B0 F2 B1 F3 B2    B3
        stage 2         F0 B0 F1 B1 F2 B2 F3 B3

    Alive at once: ``min(P - s, M)`` microbatches on stage ``s``. Share of time without work: as GPipe's.

    References:
        Narayanan et al., PipeDream, 2019, section 3.2 (with a flush after each step). https://arxiv.org/abs/1806.03377
    """
    return [
        _alternate(
            [Action("forward", stage, m) for m in range(num_microbatches)],
            [Action("backward", stage, m) for m in range(num_microbatches)],
            num_stages - stage - 1,
        )
        for stage in range(num_stages)
    ]


def interleaved(num_workers: int, num_chunks: int, num_microbatches: int) -> list[Order]:
    """Each worker has several stages, every ``P``-th: a smaller bubble for more messages.

        P = 2 workers, V = 2 chunks: worker 0 has the stages 0 and 2, worker 1 the stages 1 and 3

        worker 0   F0@0 F1@0 F0@2 F1@2           B0@2      B1@2 B0@0 B1@0
        worker 1        F0@1 F1@1 F0@3 B0@3 F1@3 B1@3 B0@1 B1@1

    Microbatches go through the chunks in groups of ``P``; the last group may be smaller, see `_groups`. Share of time without
    work: ``(P - 1) / (V * M + P - 1)`` where ``P`` divides ``M``.

    References:
        Narayanan et al., Efficient Large-Scale Language Model Training, 2021, section 2.2.2.
        https://arxiv.org/abs/2104.04473
    """
    groups = _groups(num_workers, num_chunks, num_microbatches)
    size = len(groups[0]) if groups else 0
    orders = []
    for worker in range(num_workers):
        stages = range(worker, num_workers * num_chunks, num_workers)
        forwards = [Action("forward", s, m) for group in groups for s in stages for m in group]
        backwards = [Action("backward", s, m) for group in groups for s in reversed(stages) for m in group]
        ahead = (num_chunks - 1) * size + 2 * (num_workers - worker - 1)
        orders.append(_alternate(forwards, backwards, ahead))
    return orders


def _groups(num_workers: int, num_chunks: int, num_microbatches: int) -> list[range]:
    """Return the groups in which microbatches go through the chunks: of one for each worker, the last one smaller.

    Where the last one would have from 2 to ``P - 3`` (with more than two chunks also others), the workers would wait for each other
    for ever: they come to a backward that needs a forward behind it. Then there are larger groups, as even as possible.

    Example:
        >>> _groups(2, 2, 5)
        [range(0, 2), range(2, 4), range(4, 5)]
        >>> _groups(5, 2, 7)
        [range(0, 7)]
    """
    count, rest = divmod(num_microbatches, num_workers)
    if count and rest and (num_chunks > 2 or 2 <= rest <= num_workers - 3):
        small, larger = divmod(num_microbatches, count)
        starts = [number * small + min(number, larger) for number in range(count + 1)]
    else:
        starts = [*range(0, num_microbatches, num_workers), num_microbatches]
    return [range(start, stop) for start, stop in itertools.pairwise(starts)]


def _alternate(forwards: Sequence[Action], backwards: Sequence[Action], ahead: int) -> Order:
    """Return `ahead` forwards, then one forward and one backward in turn, then the other backwards."""
    order = list(forwards[:ahead])
    for forward, backward in zip(forwards[ahead:], backwards, strict=False):
        order += [forward, backward]
    return order + list(backwards[max(0, len(forwards) - ahead) :])
