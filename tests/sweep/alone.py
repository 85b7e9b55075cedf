"""What must hold of a network on one worker before plans are compared with it."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh
from ziggurat.verification.step import Outcome, Trial, as_it_is, watch_step


def take_reference(workers: Workers, model: nn.Module, trial: Trial) -> tuple[Outcome, str]:
    """Take the step on one worker, twice.

    Returns:
        What it leaves behind; and where the second one leaves other bits, empty if nowhere.

    Raises:
        ArithmeticError: If the gradient is zero or not finite: nothing could be compared with it.

    Placement:
        In a process of its own, whose memory is free again before a plan's workers need it.
    """
    outcome, _ = watch_step(copy.deepcopy(model), trial, make_mesh(workers), as_it_is)
    norm = float(outcome.norm)
    if not math.isfinite(norm) or norm == 0:
        raise ArithmeticError(f"the gradient's norm is {norm}")
    unlike, _ = watch_step(model, trial, make_mesh(workers), lambda again: _first_unlike(outcome, again))
    return outcome, unlike and f"two equal steps on one worker differ in {unlike}"


def _first_unlike(outcome: Outcome, again: Outcome) -> str:
    """Return the name of the first tensor that has other bits; empty if there is none."""
    for (name, first), (_, second) in zip(_tensors(outcome), _tensors(again), strict=True):
        if first.shape != second.shape or not torch.equal(first.nan_to_num(), second.nan_to_num()):
            return name
    return ""


def _tensors(outcome: Outcome) -> Iterator[tuple[str, Tensor]]:
    for number, seen in outcome.seen.items():
        outputs = [*(seen.outputs or []), *([] if seen.input_gradient is None else [seen.input_gradient])]
        yield from (
            (f"output {index} of microbatch {number}", output) for index, output in enumerate(outputs)
        )
    chunks = itertools.chain(outcome.gradients.items(), outcome.buffers.items())
    yield from ((name, chunk.tensor) for name, chunk in chunks)
