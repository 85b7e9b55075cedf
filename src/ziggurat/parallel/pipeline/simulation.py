"""What an order of actions leads to, without a process: whether it ends, how long it takes, what is alive at once.

Sends do not wait, and a message is known by its sender's order. Such workers are a Kahn network: whether all of them end
does not depend on who is how fast, so one run of the simulation decides it for all. (The tests also walk through all
interleavings of small cases.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ziggurat.parallel.pipeline.schedules import Action, Order


@dataclass(frozen=True)
class Timeline:
    """When each action begins and ends.

    Attributes:
        spans: Begin and end of each action.
        seconds: When the last worker ends.
        idle: Share of all workers' time in which they do not work.
    """

    spans: Mapping[Action, tuple[float, float]]
    seconds: float
    idle: float


def needs_of_chain(action: Action, num_stages: int) -> list[Action]:
    """Return what an action waits for, where each stage needs the one before it.

    Example:
        >>> [str(need) for need in needs_of_chain(Action("backward", 1, 0), num_stages=3)]
        ['F0@1', 'B0@2']
    """
    kind, stage, microbatch = action
    if kind == "forward":
        return [Action("forward", stage - 1, microbatch)] if stage else []
    after = [Action("backward", stage + 1, microbatch)] if stage + 1 < num_stages else []
    return [Action("forward", stage, microbatch), *after]


def run_order(
    orders: Sequence[Order],
    num_stages: int,
    seconds: Callable[[Action], float] = lambda action: 1.0,
    message_seconds: float = 0.0,
) -> Timeline:
    """Let every worker do its actions in its order, as soon as what they need is there.

    Needs over several stages (skips) are met whenever those of neighbours are, as forward and backward go through all
    stages between; so these decide for every network.

    Args:
        orders: Of each worker.
        num_stages: Of all workers together.
        seconds: Of each action.
        message_seconds: Between the end of an action and the begin of one that needs it on another worker.

    Raises:
        ValueError: If workers wait for each other for ever; names what each waits for.

    Example:
        >>> from ziggurat.parallel.pipeline.schedules import gpipe
        >>> run_order(gpipe(2, 3), num_stages=2).idle
        0.25
    """
    spans: dict[Action, tuple[float, float]] = {}
    worker_of = {action: worker for worker, order in enumerate(orders) for action in order}
    places, clocks = [0] * len(orders), [0.0] * len(orders)

    def begin(worker: int) -> float | None:
        """Return when a worker's next action can begin; None where what it needs has not been done."""
        time = clocks[worker]
        for need in needs_of_chain(orders[worker][places[worker]], num_stages):
            if need not in spans:
                return None
            travel = message_seconds if worker_of[need] != worker else 0.0
            time = max(time, spans[need][1] + travel)
        return time

    waiting = [worker for worker, order in enumerate(orders) if order]
    while waiting:
        ready = {worker: time for worker in waiting if (time := begin(worker)) is not None}
        if not ready:
            stuck = ", ".join(f"worker {w} before {orders[w][places[w]]}" for w in waiting)
            raise ValueError(f"the schedule never ends: {stuck} wait for each other")
        for worker, time in ready.items():
            action = orders[worker][places[worker]]
            spans[action] = (time, time + seconds(action))
            clocks[worker] = spans[action][1]
            places[worker] += 1
        waiting = [worker for worker in waiting if places[worker] < len(orders[worker])]
    end = max(clocks, default=0.0)
    work = sum(stop - start for start, stop in spans.values())
    return Timeline(spans, end, 1 - work / (end * len(orders)) if end else 0.0)


def peak_alive(order: Order) -> int:
    """Return how many forwards of a worker are alive at once: done, and their backward not."""
    alive = peak = 0
    for action in order:
        alive += 1 if action.kind == "forward" else -1
        peak = max(peak, alive)
    return peak
