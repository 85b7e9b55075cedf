"""What becomes of a small network under a plan: the step of one worker, or a refusal by name."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from support.ranks import run_ranks
from ziggurat.config import RunConfig, override
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.plan import parse_plan
from ziggurat.verification.check import Check, check_step
from ziggurat.verification.compare import BOUNDS
from ziggurat.verification.errors import Errors
from ziggurat.verification.step import Outcome, Trial, run_step

SETTINGS = {
    "train.clip_norm": 0.1, "train.ema": 0.9, "train.lr": 0.1, "pipeline.unit_bytes": 64, "tensor.min_width": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What came of a step under a plan.

    Attributes:
        errors: Against the step on one worker; None where the network was refused.
        why: The refusal.
    """

    errors: Errors | None
    why: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether it is the step of one worker."""
        return self.errors is not None and self.errors.largest <= BOUNDS[torch.float64]

    @property
    def word(self) -> str:
        """The verdict in a word."""
        return "exact" if self.is_exact else "refused" if self.errors is None else f"wrong: {self.errors}"


def make_trial(shape: tuple[int, ...] = (4, 3, 24, 20), microbatches: int = 2, cut: str = "") -> Trial:
    """Return a step of random images."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Trial(images, 7, microbatches, override(RunConfig(), {**SETTINGS, "pipeline.cut": cut}))


def reference_of(model: nn.Module, trial: Trial) -> Outcome:
    """Return the step on one worker."""
    return run_step(copy.deepcopy(model), trial, make_mesh(Workers()))


def reference_in_a_process(model: nn.Module, trial: Trial) -> Outcome:
    """Return the step on one worker, of the network itself: a copy would lack the hooks on its parameters."""
    outcome: Outcome = run_ranks(_step_alone, 1, (model, trial), 60)[0]
    return outcome


def _step_alone(workers: Workers, model: nn.Module, trial: Trial) -> Outcome:
    return run_step(model, trial, make_mesh(workers))


def verdict_of(model: nn.Module, plan: str, trial: Trial, reference: Outcome | None = None) -> Verdict:
    """Return what becomes of a network of float64 under a plan; of one that cannot be copied, build it in the workers."""
    reference = reference_of(model, trial) if reference is None else reference
    try:
        check: Check = run_ranks(
            check_step, parse_plan(plan).num_workers, (plan, model, trial, reference), 60
        )[0]
    except RuntimeError as error:
        if isinstance(error.__cause__, UserError):
            return Verdict(None, str(error.__cause__))
        raise
    if check.errors is None:
        found = check.unsupported[0]
        return Verdict(
            None, f"{found['operation']} in {found['layer']}: {found['reason']}; {found['remedy']}"
        )
    return Verdict(check.errors)
