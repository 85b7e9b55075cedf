"""What rounding alone does to a network: the step on one worker again, with other last bits.

A bound that is broken has one of two causes. Either the plan computes something else, or the network amplifies rounding:
batch norms over a few values do, and each in a row does it again. Here no plan takes part, so what differs is rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.parallel.workers import Workers
from ziggurat.plans.mesh import make_mesh
from ziggurat.verify.compare import Errors, compare_steps
from ziggurat.verify.step import Step, Trial, run_step


def with_other_last_bits(values: Tensor, generator: torch.Generator) -> Tensor:
    """Return values of which each is about one rounding larger or smaller.

    Example:
        >>> values = torch.ones(4, dtype=torch.float64)
        >>> float((with_other_last_bits(values, torch.Generator()) - values).abs().max()) < 3e-16
        True
    """
    signs = torch.randint(0, 2, values.shape, generator=generator).to(values.dtype)
    return values * (1 + (2 * signs - 1) * torch.finfo(values.dtype).eps)


@contextmanager
def other_roundings(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Change the last bits of what each layer without children returns."""

    def change(layer: nn.Module, given: Any, output: Any) -> Any:
        if isinstance(output, Tensor) and output.is_floating_point():
            return with_other_last_bits(output, generator)
        return output

    leaves = [layer for layer in model.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(change) for layer in leaves]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def measure_rounding(model: nn.Module, trial: Trial, reference: Step) -> Errors:
    """Return how far the step on one worker moves when last bits change: of its input, and of its layers' outputs.

    Args:
        model: The same weights as the reference's had before its step; changed.
        trial: The reference's.
        reference: The step on one worker.
    """
    generator = torch.Generator().manual_seed(trial.seed)
    other = replace(trial, images=with_other_last_bits(trial.images, generator))
    with other_roundings(model, generator):
        return compare_steps(run_step(model, other, make_mesh(Workers())), reference)
