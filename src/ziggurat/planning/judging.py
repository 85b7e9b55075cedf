"""From a plan to what a step under it takes: its programs are recorded, their kernels priced, and the step simulated."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ziggurat.planning.program import Kernel, Program, Start
from ziggurat.planning.search import Candidate, Refused
from ziggurat.planning.segments import nothing
from ziggurat.planning.simulate import Network, Simulated, simulate
from ziggurat.strategies.estimate import StepCost
from ziggurat.strategies.plan import Plan

CLOSE = 1.5  # times the fastest: of plans that take longer by forecast, kernels are not measured


class Recorded(Protocol):
    """The programs of a plan's workers, or why there are none."""

    @property
    def programs(self) -> Sequence[Program]:
        """Of all workers, in order of rank."""
        ...

    @property
    def refused(self) -> str | None:
        """Why the plan does not go with the network; None if it does."""
        ...


class Record(Protocol):
    """What takes a plan's step without computing: `record.record_step` of one network, or what stands in its place."""

    def __call__(self, candidate: Candidate) -> Recorded:
        """Return what the workers do."""
        ...


class Costs(Protocol):
    """What kernels cost: `costs.CostTable`, or what stands in its place."""

    def known(self, kernel: Kernel) -> bool:
        """Whether the seconds of a kernel are known."""
        ...

    def measure(self, kernels: Iterable[Kernel]) -> object:
        """Find out what kernels take that are not known; they come in a program's order, with what it calls again."""
        ...

    def seconds(self, kernel: Kernel) -> float:
        """Return what a kernel takes; of one that is not known what others tell, once some are."""
        ...

    def begin(self, start: Start) -> float:
        """Return what computing it costs a worker to begin a message or collective."""
        ...


@dataclass
class Judge:
    """Simulates a step under each plan that it is asked for.

    Attributes:
        record: Takes the step without computing.
        costs: Of kernels; what they do not know is measured.
        links: What carries messages.
        pieces: Microbatches of a step, or batches of a prediction.
        times: How many times as much there is to do as was recorded.
        cores: Workers of a machine that can compute at once; None where each has a device of its own.
        places: The machine of each worker, by rank.
        carry: Seconds of a core that a message costs each of its workers beside its computing, see `simulate`.
        before: Seconds of computing of each worker before its program.
        is_formula: Whether nothing that kernels cost was measured.
        fastest: Seconds of the fastest plan so far.
    """

    record: Record
    costs: Costs
    links: Network
    pieces: int
    times: Callable[[Plan], float] = lambda plan: 1.0
    cores: float | None = None
    places: Sequence[int] | None = None
    carry: Callable[[Start], float] = nothing
    before: float = 0.0
    is_formula: bool = False
    fastest: float = math.inf

    def __call__(self, candidate: Candidate) -> Simulated | Refused:
        """Return the step of a candidate, or why there is none."""
        try:
            recorded = self.record(candidate)
        except (
            RuntimeError
        ) as error:  # a fault of the recording, which is no reason to know nothing of other plans
            why = str(error).strip().splitlines() or [type(error).__name__]
            return Refused(candidate, f"its step could not be recorded, so it is not known: {why[-1]}")
        if recorded.refused is not None:
            return Refused(candidate, recorded.refused)
        step = self.step_of(candidate, recorded.programs)
        self.fastest = min(self.fastest, step.seconds)
        return step

    def step_of(
        self, candidate: Candidate, programs: Sequence[Program], measures_all: bool = False
    ) -> Simulated:
        """Return a step; kernels that are not known are measured, unless a forecast of them says that the plan is far from the best."""
        # by identity: equal kernels of a program are one object, and to hash one takes longer
        kernels = {id(e): e for program in programs for e in program.events if isinstance(e, Kernel)}
        unknown = {number for number, one in kernels.items() if not self.costs.known(one)}
        if not unknown:
            return self._step(candidate, programs)
        if not measures_all:
            forecast = self._step(candidate, programs)
            if forecast.seconds > CLOSE * self.fastest:
                return forecast
        # in their order, and as often as they come: so they are measured
        self.costs.measure(kernels[id(e)] for one in programs for e in one.events if id(e) in unknown)
        return self._step(candidate, programs)

    def _step(self, candidate: Candidate, programs: Sequence[Program]) -> Simulated:
        places = None if self.places is None else self.places[: len(programs)]
        step = simulate(
            programs,
            self.costs.seconds,
            self.links,
            self.cores,
            places,
            begin=self.costs.begin,
            carry=self.carry,
            before=self.before,
        )
        times = self.times(candidate.plan)
        step = replace(step, guessed=self._guessed(programs))
        return step if times == 1 else step.repeated(times)

    def _guessed(self, programs: Sequence[Program]) -> float:
        """Return the share of the seconds of all kernels that was not measured, but is told by others that are alike."""
        if self.is_formula:
            return 1.0
        kernels = {id(e): e for program in programs for e in program.events if isinstance(e, Kernel)}
        counts = Counter(id(e) for program in programs for e in program.events if isinstance(e, Kernel))
        taken = {True: 0.0, False: 0.0}
        for number, kernel in kernels.items():
            taken[self.costs.known(kernel)] += counts[number] * self.costs.seconds(kernel)
        return taken[False] / (taken[True] + taken[False] or 1.0)

    def alone(self, candidate: Candidate) -> StepCost | str:
        """Return what the step costs one worker, from which rules of thumb bound what it costs several; else why it does not run."""
        recorded = self.record(candidate)
        if recorded.refused is not None:
            return recorded.refused
        (program,) = recorded.programs
        step = self.step_of(candidate, recorded.programs, measures_all=True)
        weights = program.held_bytes.get("weights", 0)
        kept = sum(program.held_bytes.values()) - weights
        activations = max(0, program.peak_bytes - weights - kept)
        return StepCost(step.seconds, self.pieces, weights, kept, activations)

    def cost(self, candidate: Candidate) -> float:
        """Return about how many seconds it takes to look at a candidate: that is known of large worlds."""
        return 0.0

    def bound(self, candidate: Candidate, alone: StepCost) -> float:
        """Return the least seconds that a step can take: spread evenly, with messages that take no time.

        Where more workers compute than there are cores, no plan takes less than all of its work on these.
        """
        plan = candidate.plan
        least = plan.estimate(alone).seconds
        if self.cores is None:
            return least
        machines = 1 if self.places is None else len(set(self.places))
        together = min(math.inf, self.cores * machines)
        return max(least, alone.seconds / min(plan.num_workers, together))
