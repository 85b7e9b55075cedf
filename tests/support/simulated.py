"""Programs for the simulation: of a pipeline's orders, and drawn ones that end; networks of which everybody knows what they take."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from hypothesis import strategies as st

from ziggurat.parallel.pipeline.schedules import Action
from ziggurat.parallel.pipeline.simulation import needs_of_chain
from ziggurat.planning.program import Kernel, Mark, Program, Start, Wait


@dataclass(frozen=True)
class Steady:
    """A network in which everything takes a latency, and each byte a time."""

    latency: float = 0.0
    per_byte: float = 0.0

    def seconds(self, start, places):
        num_bytes = start.num_bytes + sum(size for _, size in start.sends)
        return self.latency + self.per_byte * num_bytes


def kernel(name):
    return Kernel(str(name), ())


def sends(group, *to, num_bytes=1):
    return Start("swap", group, sends=tuple((one, num_bytes) for one in to))


def receives(group, *sources, num_bytes=1):
    return Start("swap", group, receives=tuple((one, num_bytes) for one in sources))


def programs_of(orders, num_stages, early=False):
    """Return what the workers of a pipeline do in their orders: each stage sends what it made to those that need it.

    Messages of a worker come in its order: who wants one takes those before it, too, and keeps them, as `Channel` does.

    Args:
        orders: Of each worker.
        num_stages: Of all.
        early: Whether every worker begins to receive all messages at its beginning.
    """
    worker_of = {action: worker for worker, order in enumerate(orders) for action in order}
    queues = defaultdict(list)  # what each worker sends to each other, in its order
    for worker, order in enumerate(orders):
        for action in order:
            for after in users_of(action, num_stages):
                if worker_of.get(after, worker) != worker:
                    queues[worker, worker_of[after]].append(action)
    group = tuple(range(len(orders)))
    programs = []
    for worker, order in enumerate(orders):
        events, starts, count = [], {}, 0
        incoming = {source: queue for (source, to), queue in queues.items() if to == worker}
        if early:
            for source, queue in incoming.items():
                for one in queue:
                    events.append(receives(group, source))
                    starts[source, one], count = count, count + 1
        taken = defaultdict(int)
        for action in order:
            for need in needs_of_chain(action, num_stages):
                source = worker_of[need]
                if source == worker:
                    continue
                for one in incoming[source][taken[source] : incoming[source].index(need) + 1]:
                    if not early:
                        events.append(receives(group, source))
                        starts[source, one], count = count, count + 1
                    events.append(Wait(starts[source, one]))
                    taken[source] += 1
            events += [Mark(str(action)), kernel(action)]
            for after in users_of(action, num_stages):
                if worker_of.get(after, worker) != worker:
                    events.append(sends(group, worker_of[after]))
                    count += 1
        programs.append(Program(worker, tuple(events)))
    return programs


def users_of(action, num_stages):
    """Return what waits for an action."""
    kind, stage, microbatch = action
    after = [Action("backward", stage, microbatch)] if kind == "forward" else []
    if kind == "forward" and stage + 1 < num_stages:
        after.append(Action("forward", stage + 1, microbatch))
    if kind == "backward" and stage:
        after.append(Action("backward", stage - 1, microbatch))
    return after


@st.composite
def ending_programs(draw, most_workers=4, most_events=25, replicas=1):
    """Draw programs that end, as all that meets is at one place of a common order.

    Args:
        draw: Of hypothesis.
        most_workers: Of a replica.
        most_events: Of all of a replica's workers.
        replicas: The same programs so often, which come together in collectives of one worker of each, and of all.
    """
    count = draw(st.integers(1 if replicas > 1 else 2, most_workers))
    events = [[[] for _ in range(count)] for _ in range(replicas)]
    begun = [0] * count
    kinds = (
        ["kernel", "kernel", "all-reduce"]
        + ["swap"] * (count > 1)
        + ["over replicas", "all"] * (replicas > 1)
    )
    for number in range(draw(st.integers(1, most_events))):
        kind = draw(st.sampled_from(kinds))
        late = draw(st.booleans())
        if kind == "swap":
            first, second = draw(st.permutations(range(count)))[:2]
            members, size = [first, second], draw(st.integers(0, 9))
        elif kind in ("kernel", "over replicas"):
            members = [draw(st.integers(0, count - 1))]
        else:
            members = list(range(count))
        for replica in range(replicas):
            ranks = [replica * count + member for member in members]
            if kind == "over replicas":
                group = tuple(other * count + members[0] for other in range(replicas))
            elif kind == "all":
                group = tuple(range(replicas * count))
            else:
                group = tuple(replica * count + member for member in range(count))
            for member in members:
                mine = events[replica][member]
                if kind == "kernel":
                    mine.append(kernel(f"{number} of {member}"))
                    continue
                if kind == "swap":
                    mine.append(
                        sends(group, ranks[1], num_bytes=size)
                        if member == first
                        else receives(group, ranks[0], num_bytes=size)
                    )
                else:
                    mine.append(Start("all-reduce", group, num_bytes=number))
                if not late:
                    mine.append(Wait(begun[member]))
        if kind != "kernel":
            for member in members:
                begun[member] += 1
    ends = [[Wait(number) for number in range(of_member)] for of_member in begun]
    return [
        Program(replica * count + member, (*events[replica][member], *ends[member]))
        for replica in range(replicas)
        for member in range(count)
    ]
