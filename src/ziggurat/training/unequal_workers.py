"""Who is slow, in which phase, what that costs, and shares of microbatches that follow it.

Every few steps the workers let each other know what their last ones took. Two microbatches of four each, worker 1 half as fast::

    worker 0   data | compute | exchange | waiting           |      a step takes as long as the slowest worker;
    worker 1   data | compute                     | exchange |      without it, as long as the next slowest

What a worker waits for others in is not its own time. Peers, which do the same work, are compared: those that take other
microbatches, or have other parts of the same images.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from ziggurat.parallel.runtime.heartbeat import phase
from ziggurat.strategies.costs.speeds import Adaptation, Speeds, noise_of, num_roots
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.pace import Spent
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.shares import MEASURED, SETTING, Shares
from ziggurat.system.writing import write_text

TABLE = "workers.md"  # in a run's report
WINDOW = 8  # steps whose medians are compared
WARM_UP = 2  # steps of this attempt that are not: memory is mapped, loaders begin
SLOW = (
    1.25  # a straggler takes so many times as long as its peers for a microbatch, or their other phases ...
)
HELD_UP = 0.1  # ... and holds up this part of a step
MOST_LINES = 20  # on stragglers in a log
PHASES = ("data", "compute", "exchange")


class Log(Protocol):
    """Where a run says things."""

    def say(self, message: str) -> None:
        """Say a line."""
        ...

    def balance(self, values: dict[str, Any]) -> None:
        """Record numbers of some steps."""
        ...


class Took(NamedTuple):
    """Seconds of one worker in one step; of several steps the medians.

    Attributes:
        data: In which it waited for its samples.
        compute: In forward and backward, waits for other workers left out.
        exchange: In all that is its own after that.
        waiting: For other workers.
        summing: In the exchange of gradients, with waits.
        step: All of them.
        each: For a microbatch: samples and computing; 0 where it had none.
        noise: By which part of it that may be wrong, of several steps.
    """

    data: float
    compute: float
    exchange: float
    waiting: float
    summing: float
    step: float
    each: float
    noise: float = 0.0

    @property
    def own(self) -> float:
        """Seconds in which others may have waited for it."""
        return self.data + self.compute + self.exchange

    @classmethod
    def of_steps(cls, taken: Sequence[Took]) -> Took:
        """Return the medians of some steps."""
        medians = cls(*(statistics.median(values) for values in zip(*taken, strict=True)))
        return medians._replace(noise=noise_of([one.each for one in taken]))

    @classmethod
    def of_step(cls, waited: float, seconds: float, spent: Spent, count: int) -> Took:
        """Return what a step took.

        Args:
            waited: For samples.
            seconds: Of the step without that.
            spent: Of the step.
            count: Microbatches of this worker.
        """
        own = max(0.0, seconds - spent.passes - spent.waiting)
        waiting = spent.waiting + spent.passes - spent.computing
        each = (waited + spent.computing) / count if count else 0.0
        return cls(waited, spent.computing, own, waiting, spent.summing, waited + seconds, each)


@dataclass(frozen=True)
class Straggler:
    """Who holds up a step.

    Attributes:
        worker: Its rank.
        phase: In which it is slow: ``data``, ``compute`` or ``exchange``.
        times: How many times as long as its peers it takes for it; of data and compute for a microbatch.
        seconds: Of a step.
        without: Of a step, if it was as fast as the next slowest.
    """

    worker: int
    phase: str
    times: float
    seconds: float
    without: float


def find_straggler(took: Sequence[Took], peers: Sequence[Sequence[int]]) -> Straggler | None:
    """Return who holds up a step the most; None where nobody does by much.

    Args:
        took: Medians of each worker's last steps.
        peers: Of the workers those that do the same work, each in one group.
    """
    found = [one for group in peers if len(group) > 1 for one in _slowest(took, group)]
    return max(found, key=lambda one: one.seconds - one.without, default=None)


def _slowest(took: Sequence[Took], group: Sequence[int]) -> list[Straggler]:
    *_, second, worker = sorted(group, key=lambda rank: took[rank].own)
    mine, seconds = took[worker], max(one.step for one in took)
    without = seconds - (mine.own - took[second].own)
    others = [took[rank] for rank in group if rank != worker]
    computing = statistics.median_low([one.each for one in others])
    excess = {
        name: getattr(mine, name) - statistics.median_low([getattr(one, name) for one in others])
        for name in PHASES
    }
    slow_in = max(PHASES, key=excess.__getitem__)
    own, usual = mine.each, computing
    if slow_in == "exchange":
        own, usual = mine.exchange, mine.exchange - excess["exchange"]
    times = own / usual if usual > 0 else math.inf
    if seconds - without < HELD_UP * seconds or times < SLOW:
        return []
    return [Straggler(worker, slow_in, times, seconds, without)]


@dataclass
class Totals:
    """What the steps of a run that were measured took."""

    steps: int = 0
    took: list[Took] = field(default_factory=list)
    slow: Counter[tuple[int, str]] = field(default_factory=Counter)
    lost: defaultdict[tuple[int, str], float] = field(default_factory=lambda: defaultdict(float))

    def add(self, took: Sequence[Took], straggler: Straggler | None) -> None:
        """Take the medians of some steps of all workers."""
        weight = self.steps / (self.steps + WINDOW)
        before = self.took or took
        self.took = [
            Took(*(weight * old + (1 - weight) * new for old, new in zip(one, other, strict=True)))
            for one, other in zip(before, took, strict=True)
        ]
        self.steps += WINDOW
        if straggler is not None:
            key = straggler.worker, straggler.phase
            self.slow[key] += WINDOW
            self.lost[key] += WINDOW * (straggler.seconds - straggler.without)


class Balance:
    """Measures a run's steps, says who is slow, and lets shares follow where the run asks for that.

    All workers make it and call it together.

    Args:
        parallel: The run's state on its workers.
        log: Where it is said.

    Attributes:
        changes: How often shares became others.
    """

    def __init__(self, parallel: Parallel[Any], log: Log) -> None:
        self.parallel, self.mesh, self.log = parallel, parallel.mesh, log
        self.peers = peers_of(self.mesh)
        self.is_active = any(len(group) > 1 for group in self.peers)
        self.adaptation: Adaptation | None = None
        setting = parallel.setting
        if setting.config.pipeline.shares == MEASURED and 1 < self.mesh.data.size <= setting.num_microbatches:
            self.adaptation = Adaptation.of((), setting.num_microbatches, self.mesh.data.size)
        self.totals, self.changes, self.lines = Totals(), 0, 0
        self.to_skip = WARM_UP
        self.taken: list[Took] = []
        self.spent = parallel.pace.spent()
        self.straggler: Straggler | None = None

    def measuring(self) -> AbstractContextManager[None]:
        """Return the context in which steps are measured."""
        return self.parallel.pace.measure() if self.is_active else nullcontext()

    def before_step(self) -> None:
        """Begin a step: what was waited for before is not its own."""
        if self.is_active:
            self.spent = self.parallel.pace.spent()

    def after_step(self, done: int, waited: float, seconds: float) -> None:
        """Take a step that is done, and change shares where it is time.

        Args:
            done: Steps that are done.
            waited: Seconds that this worker has waited for its samples.
            seconds: Of the step without that.

        Communication:
            Every `WINDOW` steps one all-gather of eight numbers.
        """
        if not self.is_active:
            return
        spent = self.parallel.pace.spent().since(self.spent)
        if self.to_skip:
            self.to_skip -= 1
            return
        self.taken.append(Took.of_step(waited, seconds, spent, len(self.parallel.mine)))
        if len(self.taken) < WINDOW:
            return
        mine, self.taken, workers = Took.of_steps(self.taken), [], self.mesh.workers
        phase("balance")
        numbers = torch.tensor(mine, dtype=torch.float64, device=workers.device)
        every = workers.to_host(workers.all_gather(numbers)).view(workers.size, -1).tolist()
        self._compare(done, [Took(*one) for one in every])

    def _compare(self, done: int, took: list[Took]) -> None:
        straggler = find_straggler(took, self.peers)
        self.totals.add(took, straggler)
        self._say(done, straggler)
        own = sorted(one.own for one in took)
        seconds = max(one.step for one in took)
        self.log.balance(
            {
                "step": done,
                "step_seconds": seconds,
                "without_slowest_seconds": seconds if straggler is None else straggler.without,
                "slowest_seconds": own[-1],
                "median_seconds": statistics.median(own),
                "slowest": None if straggler is None else straggler.worker,
                "phase": None if straggler is None else straggler.phase,
                "shares": str(self.parallel.shares),
            }
        )
        self._follow(done, took)

    def _say(self, done: int, straggler: Straggler | None) -> None:
        """Say who is slow when that begins, and when it ends."""
        before, self.straggler = self.straggler, straggler
        was, now = ((one and (one.worker, one.phase)) for one in (before, straggler))
        if was == now or self.lines >= MOST_LINES:
            return
        self.lines += 1
        if straggler is None:
            assert before is not None
            self.log.say(
                f"worker {before.worker} holds up no step any more (steps {done - WINDOW + 1} to {done})"
            )
        else:
            self.log.say(
                f"worker {straggler.worker} is slow in {straggler.phase}, {straggler.times:.2f} times its peers: a step takes "
                f"{straggler.seconds:.3g} s, and {straggler.without:.3g} s without it (steps {done - WINDOW + 1} to {done})"
            )
        if self.lines == MOST_LINES:
            self.log.say("no more is said of slow workers until the end")

    def _follow(self, done: int, took: Sequence[Took]) -> None:
        """Let shares follow the speeds of the places of the data axis."""
        if self.adaptation is None:
            return
        places = range(self.mesh.data.size)
        each = tuple(max(took[rank].each for rank in self.mesh.workers_of(place)) for place in places)
        if min(each) <= 0:  # one had nothing to do
            return
        pieces = num_roots(self.adaptation.counts) + len(
            places
        )  # that are summed, and those that are given back
        speeds = Speeds(each, min(one.summing for one in took) / pieces, max(one.noise for one in took))
        before = self.adaptation.counts
        if not self.adaptation.follow(speeds):
            return
        self.changes += 1
        self.parallel.shares = Shares(self.adaptation.counts)
        self.log.say(
            f"from step {done + 1} on shares of {sum(before)} microbatches are {self.parallel.shares} (before: "
            f"{','.join(map(str, before))}): a microbatch takes {', '.join(f'{one:.3g}' for one in each)} s, a step "
            f"{speeds.seconds(self.adaptation.counts):.3g} s instead of {speeds.seconds(before):.3g} s"
        )

    def facts(self) -> dict[str, Any] | None:
        """Return what a run says of its workers in its JSON object; None where too few steps were measured."""
        totals = self.totals
        if not totals.steps:
            return None
        return {
            "steps": totals.steps,
            "shares": str(self.parallel.shares),
            "changes": self.changes,
            "workers": [
                {
                    "worker": rank,
                    **{f"{name}_seconds": getattr(one, name) for name in (*PHASES, "waiting", "step")},
                    "microbatch_seconds": one.each,
                }
                for rank, one in enumerate(totals.took)
            ],
            "stragglers": [
                {"worker": worker, "phase": phase, "steps": steps, "seconds_lost": totals.lost[worker, phase]}
                for (worker, phase), steps in totals.slow.most_common()
            ],
        }

    def write(self, folder: Path) -> None:
        """Write the table into a run's report, on the first worker, where there is one.

        Raises:
            CannotWrite: If it cannot be written.
        """
        if table := self.table():
            write_text(folder / "report" / TABLE, table + "\n")

    def table(self) -> str:
        """Return the table of a run's workers, in Markdown; empty where too few steps were measured."""
        facts = self.facts()
        if facts is None:
            return ""
        rows = [
            "| worker | data | compute | exchange | waiting | a microbatch |",
            "|---|---|---|---|---|---|",
            *(
                f"| {one['worker']} | {one['data_seconds']:.3g} | {one['compute_seconds']:.3g} | {one['exchange_seconds']:.3g} | "
                f"{one['waiting_seconds']:.3g} | {one['microbatch_seconds']:.3g} |"
                for one in facts["workers"]
            ),
        ]
        slow = [
            f"Worker {one['worker']} was slow in {one['phase']} in {one['steps']} steps: {one['seconds_lost']:.3g} s lost."
            for one in facts["stragglers"]
        ]
        head = f"Seconds of a step, on average over {facts['steps']} steps. {SETTING}: {facts['shares']}, changed {self.changes} times."
        return "\n".join([head, "", *rows, "", *(slow or ["No worker held up the others by much."])])


def peers_of(mesh: Mesh) -> list[list[int]]:
    """Return the workers that do the same work, each worker in one group; none where what they wait for is not known."""
    if any(one.spreads_samples and not one.own_pace for one in mesh.strategies):
        return []
    axes = [one.axis for one in mesh.strategies if one.own_pace]
    groups: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for rank in range(mesh.workers.size):
        places = mesh.topology.coordinates(rank)
        fixed = tuple((axis, place) for axis, place in places.items() if axis not in axes)
        groups.setdefault(fixed, []).append(rank)
    return list(groups.values())
