"""Another plan between two steps of a living run, of as many workers or another number: asked for by a file in its folder, see ``docs/elastic.md``.

train under dp=2 ... step 7 | PlanAsked: state to memory, groups closed | train under sp=2, from memory: step 8 ...
train under dp=2 ... step 7 | PlanAsked, OtherWorkers: in a new world   | train under dp=3, from memory: step 8 ...
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ziggurat.config import RunConfig, flatten
from ziggurat.errors import UserError
from ziggurat.models.build import build_model
from ziggurat.models.undrawn import build_undrawn
from ziggurat.models.vision import VisionModel
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.crew import Line
from ziggurat.parallel.runtime.preemption import GoesOn
from ziggurat.runs.checkpoint import Progress
from ziggurat.strategies.effects import check_effects
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.plan import parse_plan
from ziggurat.strategies.replica_rules import replica_faults
from ziggurat.strategies.resolve import batch_faults, resolve_plan
from ziggurat.training.data import OpenedData, TrainingData, open_data, opens_together
from ziggurat.training.feed import seed_everything

REQUEST = "plan"  # the file in the run's folder
MOST_BYTES = 1000  # of a plan; the file may be anything


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
    return Kept(data=data, network=build_without_values(config, data.dataset.classes))


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
        place: Where the state is, for whoever has not got it at hand.
        kept: What this worker has at hand; other processes are not told of it.
        marks: What the first worker has done since, with the machine's clock (`time.perf_counter`) and the processor seconds of its process afterwards.
    """

    before: RunConfig
    config: RunConfig
    progress: Progress
    known: dict[int, float | None] = field(default_factory=dict)
    has_no_history: bool = False
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
            "seconds": self.marks[-1][1] - self.marks[0][1],
            "seconds_of": seconds,
            "processor_seconds_of": processor,
        }


class PlanAsked(GoesOn):
    """The run goes on under another plan: its state is where the next start finds it, and its groups are closed."""

    def __init__(self, change: Change) -> None:
        super().__init__(change.config.plan)
        self.change = change


@dataclass
class Requests:
    """The file that asks for another plan.

    Attributes:
        folder: Of the run.
        config: Of the run, as it is.
        line: To what can start other workers; None where their number stays.
        is_deaf: Whether it is not looked for any more, as it cannot be taken away.
        found: What `look` has found: the config under the plan that is asked for, or why that cannot be.
        coming: The plan whose workers are being started.
    """

    folder: Path
    config: RunConfig
    line: Line | None = None
    is_deaf: bool = False
    found: RunConfig | str = ""
    coming: str = ""

    @property
    def path(self) -> Path:
        """Where it is looked for."""
        return self.folder / REQUEST

    @property
    def is_there(self) -> bool:
        """Whether another plan is asked for."""
        return not self.is_deaf and self.path.exists()

    def look(self) -> bool:
        """Return whether there is an answer to a file that asks for another plan; not yet where it needs workers that are coming."""
        if not self.is_there:
            if self.line is not None:
                self.line.call_off(parse_plan(self.config.plan).num_workers)
            return False
        self.found = self._read()
        if isinstance(self.found, str) or self.line is None:
            return True
        plan, now = parse_plan(self.found.plan), parse_plan(self.config.plan).num_workers
        if plan.num_workers <= now:
            self.line.call_off(now)
            return True
        why = self.line.ready(plan.num_workers)
        self.coming = str(plan) if why is None else ""
        if why:
            self.found = self._refusal(str(plan), why)
        return why is not None

    def _read(self) -> RunConfig | str:
        """Return the config of the run under the plan that is asked for, or why it cannot be."""
        text = ""
        try:
            with self.path.open("rb") as file:
                text = file.read(MOST_BYTES).decode("utf-8", errors="replace").strip()
            return under(text, self.config, self.line is not None)
        except OSError as error:
            why = error.strerror or str(error)
        except UserError as error:
            why = "; ".join(error.faults)
        return self._refusal(text, why)

    def _refusal(self, text: str, why: str) -> str:
        return f"{self.path} asks for the plan '{text}', which cannot be: {why}; the run goes on under {self.config.plan}"

    def take_away(self) -> str:
        """Remove the file, and return what is in the way of that; nothing where it is gone."""
        try:
            self.path.unlink()
        except OSError as error:
            self.is_deaf = True
            return (
                f"{self.path} cannot be removed ({error.strerror}): no other plan is looked for in this run"
            )
        return ""


def under(text: str, config: RunConfig, other_workers: bool) -> RunConfig:
    """Return a config under another plan.

    Args:
        text: The plan.
        config: Of the run, as it is.
        other_workers: Whether their number can change while the run goes on.

    Raises:
        UserError: If that cannot be.
    """
    plan, now = parse_plan(text), parse_plan(config.plan)
    if plan == now:
        raise UserError("it is the plan of the run")
    if plan.num_workers != now.num_workers and not other_workers:
        raise UserError(
            f"it has {plan.num_workers} workers, and the run has {now.num_workers}, whose number stays under torchrun and on GPUs: "
            f"end it (Ctrl-C), and go on with --resume --plan {plan}"
        )
    if other_workers:
        resolve_plan(text, plan.num_microbatches, config.device, None, config.launch.backend)
    faults = batch_faults(plan, config.train.batch_size, config.train.microbatches)
    faults += replica_faults(config, plan, config.train.microbatches)
    if faults:
        raise UserError(faults)
    changed = dataclasses.replace(config, plan=str(plan))
    check_effects(changed, {"plan": text}, flatten(config))
    return changed


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
