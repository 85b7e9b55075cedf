"""Another plan between two steps of a living run, of as many workers or another number (`plan_requests`), see ``docs/elastic.md``.

train under dp=2 ... step 7 | PlanAsked: state to memory, groups closed | train under sp=2, from memory: step 8 ...
train under dp=2 ... step 7 | PlanAsked, OtherWorkers: in a new world   | train under dp=3, from memory: step 8 ...
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ziggurat.config import RunConfig
from ziggurat.models.build import build_model
from ziggurat.models.undrawn import build_undrawn
from ziggurat.models.vision import VisionModel, place_model
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.generators import seed_everything
from ziggurat.parallel.runtime.preemption import GoesOn
from ziggurat.runs.checkpoint import Progress
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.plan import parse_plan
from ziggurat.training.data import OpenedData, TrainingData, open_data, opens_together
from ziggurat.training.replanning import Replanning


@dataclass
class Kept:
    """What a worker that goes on has at hand of a run, so that it need not read or open it again; it is given away once.

    Attributes:
        tensors: All of the state, by the names of `TrainState.tensors`, where this worker has it whole.
        data: Of the run; None where they are to be opened, by all together or by who has not got them.
        network: Without values; None where it is to be built.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    data: OpenedData | None = None
    network: VisionModel | None = None


def at_hand(config: RunConfig) -> Kept:
    """Return what a worker that comes can make of a run by itself, before it is one of the workers.

    Raises:
        UserError: If the data cannot be used.
    """
    if opens_together(config):
        return Kept()
    data = open_data(config, Workers())
    network = build_without_values(config, data.dataset.classes)
    # its memory is that of the CPU: on GPUs no worker comes
    return Kept(data=data, network=place_model(network, torch.device("cpu"), config.train.channels_last))


def build_without_values(config: RunConfig, classes: Sequence[str]) -> VisionModel:
    """Return the network of a run whose state comes from elsewhere."""
    return build_undrawn(
        lambda: build_model(config.model, len(classes)), lambda: seed_everything(config.seed)
    )


@dataclass
class Change:
    """A change of a run's plan.

    Attributes:
        before: The run's config, with the old plan.
        config: The same with the new one.
        progress: How far the run is.
        known: The metrics of its checkpoints, by step.
        has_no_history: Whether its network was found to keep nothing of its own from call to call.
        replanning: When the planner is asked next; the first worker's counts.
        why: Why the planner finds it better, where the run has asked by itself; as the first worker has it.
        place: Where the state is, for whoever has not got it at hand.
        kept: What this worker has at hand; other processes are not told of it.
        marks: What the first worker has done since, with the machine's clock (`time.perf_counter`) and the processor seconds of its process afterwards.
    """

    before: RunConfig
    config: RunConfig
    progress: Progress
    known: dict[int, float | None] = field(default_factory=dict)
    has_no_history: bool = False
    replanning: Replanning | None = None
    why: str = ""
    place: Path = field(default_factory=Path)
    kept: Kept = field(default_factory=Kept, compare=False, repr=False)
    marks: list[tuple[str, float, float]] = field(
        default_factory=lambda: [("", time.perf_counter(), time.process_time())], compare=False
    )

    def __getstate__(self) -> dict[str, Any]:
        """Return what other processes are told."""
        return self.__dict__ | {"kept": Kept()}

    def keep(self, parallel: Parallel[Any], data: TrainingData) -> None:
        """Keep what is at hand of a run that leaves its plan; as its workers are spread no more, nothing else changes it."""
        state = parallel.state
        if parallel.survives and state.replicas is None:
            self.kept.tensors = {name: tensor.detach() for name, tensor in state.tensors().items()}
        self.kept.data = data.opened

    def take(self, home: torch.device) -> Kept:
        """Give away what this worker has at hand; the state only if it lies where whole models do.

        What was taken is not there any more: a plan that cannot be has changed it, perhaps.
        """
        kept, self.kept = self.kept, Kept()
        if any(tensor.device != home for name, tensor in kept.tensors.items() if name.startswith("model.")):
            kept.tensors = {}
        return kept

    def leave_out(self, num_workers: int) -> None:
        """Keep nothing that others need to have, too, where the next plan has so many workers."""
        now = parse_plan(self.before.plan).num_workers
        if now == 1:  # its process becomes the launcher
            self.kept = Kept()
        elif num_workers > now and opens_together(self.before):
            self.kept.data = None

    def mark(self, done: str) -> None:
        """Note that something is done."""
        self.marks.append((done, time.perf_counter(), time.process_time()))

    def pause(self) -> dict[str, Any]:
        """Return how long the run has paused until now, in all and by what was done."""
        seconds = {name: end - begin for (_, begin, _), (name, end, _) in itertools.pairwise(self.marks)}
        processor = {name: end - begin for (*_, begin), (name, _, end) in itertools.pairwise(self.marks)}
        return {
            "step": self.progress.step,
            "plan_before": self.before.plan,
            "plan": self.config.plan,
            "why": self.why,
            "seconds": self.marks[-1][1] - self.marks[0][1],
            "seconds_of": seconds,
            "processor_seconds_of": processor,
        }


class PlanAsked(GoesOn):
    """The run goes on under another plan: its state is where the next start finds it, and its groups are closed."""

    def __init__(self, change: Change) -> None:
        super().__init__(change.config.plan)
        self.change = change


@contextmanager
def closed_for_change(parallel: Parallel[Any], mesh: Mesh, data: TrainingData) -> Iterator[None]:
    """Close what a plan has made, where the run goes on under another one after the block, and keep what that needs."""
    try:
        yield
    except PlanAsked as asked:
        parallel.close()
        asked.change.keep(parallel, data)
        mesh.close()
        raise
