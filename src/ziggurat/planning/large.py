"""From a plan of thousands of workers to its step: the first replica is recorded, and all of them are simulated side by side.

    16,384 workers, dp=4096,sp=4        record 4 workers, who send to 16,380 that are not there      `record`, only_first
                                        simulate 4 places of 4,096 replicas                          `scale`

A replica with many microbatches is recorded with a few, and with twice as many: what each more of them takes is the difference.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ziggurat.planning.judging import Costs, Recorded
from ziggurat.planning.program import Kernel, Program
from ziggurat.planning.record import alike_fault
from ziggurat.planning.request import MOST_WORKERS
from ziggurat.planning.scale import replicas_of, simulate_replicas
from ziggurat.planning.search import Candidate, Refused
from ziggurat.planning.segments import Jitter
from ziggurat.planning.simulate import Network, Simulated
from ziggurat.strategies.estimate import StepCost
from ziggurat.strategies.machines import tiers_of
from ziggurat.strategies.plan import Plan
from ziggurat.strategies.registry import STRATEGIES

MOST_THAT_SHARE = 128  # places of dp among which a sharded optimizer is looked at: each cuts every weight into as many pieces
BEFORE = 3  # microbatches that take a process as long to record as what comes before them
WIDE = 64  # workers that meet at once: of more, tiers are tried
HIERARCHY = "launch.hierarchy"
SHARDED = "pipeline.shard_optimizer"


@dataclass
class LargeJudge:
    """Simulates a step under each plan that it is asked for, of a world of which one replica is recorded.

    Attributes:
        record: Takes the step of the first replica without computing, in so many microbatches of all replicas.
        costs: Of kernels; what they do not know is measured.
        links: What carries messages.
        pieces: Microbatches of a step.
        places: The machine of each worker, by rank.
        jitter: How computing varies.
        clock: Says the time in seconds.
        pace: Seconds that a process takes to record a microbatch, of the slowest so far.
    """

    record: Callable[[Candidate, int], Recorded]
    costs: Costs
    links: Network
    pieces: int
    places: Sequence[int]
    jitter: Jitter = field(default_factory=Jitter)
    clock: Callable[[], float] = time.monotonic
    pace: float = 0.0

    def __call__(self, candidate: Candidate) -> Simulated | Refused:
        """Return the step of a candidate, or why there is none."""
        plan = candidate.plan
        fault = alike_fault(plan, self.pieces) or sharded_fault(candidate)
        if fault is not None:
            return Refused(candidate, fault)
        try:
            recorded = [self._recorded(candidate, each) for each in self.amounts(plan)]
        except (
            RuntimeError
        ) as error:  # a fault of the recording, which is no reason to know nothing of other plans
            why = str(error).strip().splitlines() or [type(error).__name__]
            return Refused(candidate, f"its step could not be recorded, so it is not known: {why[-1]}")
        for one in recorded:
            if one.refused is not None:
                return Refused(candidate, one.refused)
        steps = [self._simulated(plan, one.programs) for one in recorded]
        weights = [program.held_bytes.get("weights", 0) for program in recorded[-1].programs]
        return self._extended(plan, steps, weights)

    def amounts(self, plan: Plan) -> list[int]:
        """Return with how many microbatches a replica is recorded: with all of them, or with a few and then with twice as many.

        Where workers take turns with parts of the network, few are as many as there are workers: from there on all are busy.
        """
        each = self.pieces // plan.num_data
        few = max(2, 1 << (plan.num_microbatches // plan.num_data - 1).bit_length())
        return [each] if each <= 2 * few else [few, 2 * few]

    def cost(self, candidate: Candidate) -> float:
        """Return about how many seconds it takes to look at a candidate."""
        return (
            self.pace
            * candidate.plan.num_of_one
            * sum(BEFORE + each for each in self.amounts(candidate.plan))
        )

    def alone(self, candidate: Candidate) -> StepCost | str:
        """Return what the step costs one worker, from which rules of thumb bound what it costs several; else why it does not run."""
        recorded = [self._recorded(candidate, each) for each in (1, 2)]
        for one in recorded:
            if one.refused is not None:
                return one.refused
        few, more = (self._simulated(candidate.plan, one.programs) for one in recorded)
        seconds = few.seconds + (more.seconds - few.seconds) * (self.pieces - 1)
        (program,) = recorded[0].programs
        weights = program.held_bytes.get("weights", 0)
        kept = sum(program.held_bytes.values()) - weights
        activations = max(0, program.peak_bytes - weights - kept)
        return StepCost(seconds, self.pieces, weights, kept, activations)

    def bound(self, candidate: Candidate, alone: StepCost) -> float:
        """Return the least seconds that a step can take: spread evenly, with messages that take no time."""
        return candidate.plan.estimate(alone).seconds

    def _recorded(self, candidate: Candidate, each: int) -> Recorded:
        """Return what the workers of the first replica do, where each replica has so many microbatches."""
        plan, begin = candidate.plan, self.clock()
        recorded = self.record(candidate, each * plan.num_data)
        self.pace = max(self.pace, (self.clock() - begin) / plan.num_of_one / (BEFORE + each))
        return recorded

    def _simulated(self, plan: Plan, programs: Sequence[Program]) -> Simulated:
        """Return the step of all replicas."""
        kernels = {id(e): e for program in programs for e in program.events if isinstance(e, Kernel)}
        unknown = {number for number, one in kernels.items() if not self.costs.known(one)}
        if unknown:  # in their order, and as often as they come: so they are measured
            self.costs.measure(kernels[id(e)] for one in programs for e in one.events if id(e) in unknown)
        replicas = replicas_of(programs, plan.num_data, self.costs.seconds, self.costs.begin)
        scaled = simulate_replicas(replicas, self.links, self.places[: plan.num_workers], self.jitter)
        sent = tuple(program.bytes_sent * plan.num_data for program in programs)
        peaks = tuple(program.peak_bytes for program in programs)
        return Simulated(scaled.seconds, scaled.busy, (), sent, peaks, ())

    def _extended(self, plan: Plan, steps: Sequence[Simulated], weights: Sequence[int]) -> Simulated:
        """Return the step with all microbatches: what each more of them adds is the difference between two steps.

        Of memory, each doubling adds a gradient that waits in the tree (as many bytes as weights), and each microbatch what else it adds.
        """
        if len(steps) == 1:
            return steps[0]
        few, more = steps
        first, second = self.amounts(plan)
        each = self.pieces // plan.num_data
        times = (each - second) / (second - first)

        def on(one: float, other: float) -> float:
            return other + (other - one) * times

        def peak(one: int, other: int, gradient: int) -> int:
            return round(other + max(0, other - one - gradient) * times + gradient * math.log2(each / second))

        return Simulated(
            on(few.seconds, more.seconds),
            tuple(on(*pair) for pair in zip(few.busy, more.busy, strict=True)),
            (),
            tuple(round(on(*pair)) for pair in zip(few.bytes_sent, more.bytes_sent, strict=True)),
            tuple(peak(*each_one) for each_one in zip(few.peak_bytes, more.peak_bytes, weights, strict=True)),
            (),
        )


def sharded_fault(candidate: Candidate) -> str | None:
    """Return why a sharded optimizer is not looked at; None where it is, or there is none."""
    places = candidate.plan.num_data
    if not dict(candidate.settings).get(SHARDED) or places <= MOST_THAT_SHARE:
        return None
    return (
        f"plan.shard_optimizer over {places} places of dp is not looked at: each of them cuts every weight into {places} pieces, one by one; "
        f"{MOST_THAT_SHARE} at most"
    )


def not_looked_at(num_workers: int) -> dict[str, Callable[[Plan], bool]]:
    """Return which plans of a large world are not looked at: by why, whether a plan is one of them."""
    return {
        f"more than {MOST_WORKERS} workers compute a microbatch together, and each is a process here while its step is recorded": (
            lambda plan: plan.num_of_one > MOST_WORKERS
        ),
        f"fsdp over so many of {num_workers} workers: PyTorch's fully_shard talks to workers that are all there": (
            lambda plan: not STRATEGIES[plan.data_axis].replicates_state
        ),
    }


def with_tiers(candidate: Candidate, workers_per_machine: int, is_fixed: bool) -> Iterator[Candidate]:
    """Yield a candidate, before it with tiers among its machines where more than a few meet at once.

    Args:
        candidate: Of a large world.
        workers_per_machine: Neighbours that share a machine.
        is_fixed: Whether the user has said which tiers there are.

    Example:
        >>> [str(one) for one in with_tiers(Candidate(Plan(dp=16384)), 8, False)]
        ['dp=16384 launch.hierarchy=8x32x64', 'dp=16384']
    """
    plan = candidate.plan
    machines = [str(rank // workers_per_machine) for rank in range(0, plan.num_workers, plan.num_of_one)]
    tiers = [size for tier in tiers_of(machines) for size in split(tier)]
    if not is_fixed and plan.num_data > 1 and tuple(tiers) != tiers_of(machines):
        yield Candidate(plan, (*candidate.settings, (HIERARCHY, "x".join(map(str, tiers)))))
    yield candidate


def split(count: int) -> list[int]:
    """Return tiers in which so many workers send the fewest messages: numbers with this product, none of many if that can be.

    Example:
        >>> split(2048), split(64), split(127)
        ([32, 64], [64], [127])
    """
    if count <= WIDE:
        return [count]
    pairs = [(one, count // one) for one in range(2, math.isqrt(count) + 1) if count % one == 0]
    if not pairs:
        return [count]
    return [size for part in min(pairs, key=sum) for size in split(part)]
