"""What one worker does with a program: the same step as the first worker took alone, under the plan, and a verdict.

The step, and the comparison, are those of `ziggurat verify`: what is proved here is what it proves.

exact      every error is within 1e-10
refused    the engine says by name that it cannot; nothing is computed
wrong      an error is above that
crashed    it ends by another error, or a process dies
hung       no answer in time, or workers that do not agree
invalid    no fault of the plan: it does not run on one worker either, its numbers are not finite or not repeatable, or rounding
           moves them by more than could be told from a fault; counted, and not judged
"""

from __future__ import annotations

import random
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from fuzz.program import Program, forget_sources
from ziggurat.config import RunConfig, override
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.costs import to_json
from ziggurat.parallel.graph.trace import Tracer, spec_of
from ziggurat.parallel.spatial import UnsupportedOperation
from ziggurat.strategies.costs.branch_costs import KEY as BRANCH_COSTS
from ziggurat.strategies.costs.decisions import Decisions
from ziggurat.strategies.costs.measure import measure_calls
from ziggurat.strategies.mesh import Mesh, make_mesh
from ziggurat.strategies.plan import Plan, parse_plan
from ziggurat.verification.compare import BOUNDS, compare_steps, held_of
from ziggurat.verification.errors import Errors, join_errors
from ziggurat.verification.precision import KeepFloat64
from ziggurat.verification.request import DEFAULTS
from ziggurat.verification.rounding import WAYS, OtherSums, PairwiseMoments, other_functions
from ziggurat.verification.step import Outcome, Trial, run_step

Verdict = Literal["exact", "refused", "wrong", "crashed", "hung", "invalid"]
VERDICTS: tuple[Verdict, ...] = ("exact", "refused", "wrong", "crashed", "hung", "invalid")
FAULTS = ("wrong", "crashed", "hung")

Rounding = Callable[[nn.Module], AbstractContextManager[object]]  # of a network, while the block runs
Decision = dict[str, Any] | str  # fields of a trial, or why there are none

BOUND = BOUNDS[torch.float64]
NUDGE = 1e-14  # relative, of the images
MOST_MOVED = 1e-11  # by that nudge: of a step that moves further, rounding cannot be told from a fault
MOST_TIMES = 1e3  # of what rounding moves it: a larger error is none of rounding
SETTINGS = {
    "train.ema": 0.0,
    "train.optimizer": "sgd",
    "tensor.min_width": 2,
    "model.name": "a random program",
}
MOST_FRAMES = 4  # of a traceback that are kept
RENEW = 100  # programs between two meshes


@dataclass(frozen=True)
class Finding:
    """What came of a program under a plan.

    Attributes:
        verdict: See the module.
        why: Of everything but ``exact``: the refusal's name and reason, where the error is, the traceback.
        error: The largest relative error; 0 where nothing was compared.
        kinds: Of the program's statements.
        seed: The program's.
    """

    verdict: Verdict
    why: str = ""
    error: float = 0.0
    kinds: tuple[str, ...] = ()
    seed: int = 0

    @property
    def is_fault(self) -> bool:
        """Whether the engine was wrong, crashed or hung."""
        return self.verdict in FAULTS


def config_of(plan: Plan) -> RunConfig:
    """Return the settings of the step: `verify`'s own, but without a moving average."""
    return override(DEFAULTS, SETTINGS)


class Judge:
    """One of the workers that judge programs under a plan, one after the other.

    Args:
        workers: All of them; they call `judge` together.
        plan: Of as many workers.
    """

    def __init__(self, workers: Workers, plan: str) -> None:
        self.workers, self.plan = workers, parse_plan(plan)
        self.config = config_of(self.plan)
        self.mesh: Mesh | None = None
        self.count = 0

    def judge(self, program: Program) -> Finding:
        """Return what came of a program; other workers may come to another verdict, which is a fault."""
        forget_sources()
        finding = self._judge(program)
        return replace(finding, kinds=tuple(program.kinds), seed=program.seed)

    def _judge(self, program: Program) -> Finding:
        trial = self.trial(program)
        mine = self._reference(program, trial) if self.workers.is_first else None
        reference = self.workers.broadcast_object(mine)
        assert reference is not None
        if isinstance(reference, Finding):
            return reference
        try:
            step = self._spread(program, trial)
        except UserError as error:
            return Finding("refused", reason_of(error))
        except Exception as error:  # noqa: BLE001 - a crash is a finding
            return Finding("crashed", f"{first_line(error)}\n{frames_of(error)}")
        found = self.workers.gather((compare_steps(step, reference), held_of(step)))
        errors = join_errors([one for one, _ in found])
        missing = held_of(reference).difference(*(held for _, held in found))
        if missing:
            return Finding("wrong", f"no worker holds {sorted(map(str, missing))}", 1.0)
        if errors.largest <= BOUND:
            return Finding("exact", error=errors.largest)
        doubt = self.workers.broadcast_object(
            self._doubt(program, trial, reference, errors.largest) if self.workers.is_first else ""
        )
        if doubt:
            return Finding("invalid", doubt)
        return Finding("wrong", where(errors), errors.largest)

    def _reference(self, program: Program, trial: Trial) -> Outcome | Finding:
        """Take the step on one worker; returns what it leaves behind, or why it is no reference."""
        try:
            reference = self._alone(program, trial)
        except UserError as error:
            return Finding("refused", f"on one worker, too: {reason_of(error)}")
        except Exception as error:  # noqa: BLE001 - whatever PyTorch raises on one worker
            return Finding("invalid", f"does not run on one worker: {first_line(error)}")
        return reference if is_finite(reference) else Finding("invalid", "not finite on one worker")

    def trial(self, program: Program) -> Trial:
        """Return the step: of as many images as the plan's microbatches need at least."""
        pieces = self.plan.num_microbatches
        count = -(-max(program.shape[0], pieces) // self.plan.num_data) * self.plan.num_data
        images = replace(program, shape=(count, *program.shape[1:])).images()
        return Trial(images, program.seed, pieces, self.config)

    def _alone(
        self, program: Program, trial: Trial, rounded: Rounding = lambda model: nullcontext()
    ) -> Outcome:
        """Take the step on one worker, rounded in another way if that is given."""
        with drawing_from(program.seed):
            model = program.build()
            with rounded(model):
                return run_step(model, trial, make_mesh(Workers()))

    def _spread(self, program: Program, trial: Trial) -> Outcome:
        """Take the step under the plan; what NumPy and Python would draw is another on each worker before it begins."""
        with drawing_from(program.seed + 1000 * self.workers.rank):
            trial = self._decided(program, trial)
            return run_step(program.build(), trial, self._mesh())

    def _mesh(self) -> Mesh:
        """Return the mesh, as new: made anew from time to time, since groups of processes take their time."""
        self.count += 1
        if self.mesh is not None and self.count % RENEW == 0:
            self.mesh.close()
            self.mesh = None
        if self.mesh is None:
            self.mesh = make_mesh(self.workers, self.plan)
        spatial = self.mesh.spatial
        if spatial is not None:
            spatial.names.clear()
            spatial.gathers.clear()
            spatial.apex.clear()
        return self.mesh

    def _decided(self, program: Program, trial: Trial) -> Trial:
        """Decide by the seed on what else times decide on: where a network is cut, and which branch lies where.

        Where it cannot be traced nothing is decided: then the engine is to refuse it. An error while it is measured is the
        engine's, too.
        """
        if not {"pp", "lp"} & set(self.plan.degrees):
            return trial
        decision: Decision = {}
        if self.workers.is_first:
            try:
                decision = self._decide(program, trial)
            except Exception as error:  # noqa: BLE001 - other workers wait for the decision
                decision = f"{first_line(error)}\n{frames_of(error)}"
        decision = self.workers.broadcast_object(decision)
        if isinstance(decision, str):
            raise RuntimeError(f"while it was measured: {decision}")
        return replace(trial, **decision)

    def _decide(self, program: Program, trial: Trial) -> dict[str, Any]:
        """Return what is decided, as fields of a trial."""
        model = program.build().train()
        spec = spec_of(trial.pieces()[0].images)
        rng = random.Random(program.seed)
        with KeepFloat64():
            try:
                graph = Tracer(model).trace(spec, allow=("numbers",))
            except UserError:
                return {}
            if "pp" in self.plan.degrees:
                places = list(graph.places())
                cut = rng.choice(places) if places else ""
                return {"config": override(trial.config, {"pipeline.cut": cut})}
            measured = measure_calls(model, graph, spec, torch.device("cpu"), backward=False, runs=1)
        costs = {name: replace(cost, seconds=rng.uniform(0.005, 0.02)) for name, cost in measured.items()}
        return {"decisions": Decisions({BRANCH_COSTS: to_json(costs)})}

    def _doubt(self, program: Program, trial: Trial, reference: Outcome, error: float) -> str:
        """Return why the step on one worker is no reference; empty if it is one."""
        again = compare_steps(self._alone(program, trial), reference).largest
        if again:
            return f"not repeatable on one worker: {again:.0e}"
        noise = torch.randn(
            trial.images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
        nudged = replace(trial, images=trial.images * (1 + NUDGE * noise.clamp(-1, 1)))
        moved = compare_steps(self._alone(program, nudged), reference).largest
        if moved > MOST_MOVED:
            return "ill-conditioned: last bits of the images move it too far"
        for way in range(WAYS):  # a single one moves little by chance
            generator = torch.Generator().manual_seed(way)
            other = self._alone(program, trial, lambda model, g=generator: OtherSums(g))
            if compare_steps(other, reference).largest > MOST_MOVED:
                return "ill-conditioned: last bits of what it adds up move it too far"
            other = self._alone(program, trial, lambda model, g=generator: other_functions(model, g))
            moved = compare_steps(other, reference).largest
            if moved > MOST_MOVED and error < MOST_TIMES * moved:
                return "ill-conditioned: last bits of what its functions return move it as far"
        other = self._alone(program, trial, lambda model: PairwiseMoments())
        norms = compare_steps(other, reference).largest
        return (
            "its batch norm gives another gradient where its moments are written out" if norms > BOUND else ""
        )


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Let the generators of NumPy and Python begin from a seed while a block runs."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def is_finite(step: Outcome) -> bool:
    """Whether all numbers that a step leaves behind are finite."""
    values: list[Any] = [step.norm, step.losses]
    for chunks in (step.gradients, step.buffers, step.state):
        values += [chunk.tensor for chunk in chunks.values()]
    for seen in step.seen.values():
        values += [t for t in (seen.input_gradient, *(seen.outputs or ())) if t is not None]
    return all(bool(value.isfinite().all()) for value in values)


def where(errors: Errors) -> str:
    """Return which of the compared are off, the largest errors by kind."""
    kinds = ("outputs", "loss", "gradient", "input", "buffers", "norm", "state")
    return ", ".join(f"{kind} {getattr(errors, kind):.1e}" for kind in kinds if getattr(errors, kind) > BOUND)


def reason_of(error: UserError) -> str:
    """Return a refusal in few words, without what differs from program to program."""
    if isinstance(error, UnsupportedOperation):
        return f"{type(error).__name__}: {error.operation}: {error.reason}"
    return first_line(error)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, with its type."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"


def frames_of(error: BaseException) -> str:
    """Return the last frames of an error's traceback, and those of the program."""
    frames = traceback.extract_tb(error.__traceback__)
    shown = [
        f
        for i, f in enumerate(frames)
        if f.filename.startswith("<program ") or i >= len(frames) - MOST_FRAMES
    ]
    return "\n".join(f"  {Path(f.filename).name}:{f.lineno} in {f.name}: {f.line}" for f in shown)


def shortened(why: str, length: int = 110) -> str:
    """Return a reason without numbers and names, by which it is counted."""
    line = why.splitlines()[0] if why else ""
    return re.sub(r"'[^']*'", "'..'", re.sub(r"[0-9]+(\.[0-9]+)?(e-?[0-9]+)?", "N", line))[:length]
