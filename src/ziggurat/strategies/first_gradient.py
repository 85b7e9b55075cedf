"""The norm of the gradient of a step's first microbatch: beside that of all of them it tells how much noise a larger batch would take away.

Microbatch 0 is a leaf of its own for a moment on whatever worker takes it, before its neighbour is added to it. So its norm costs a pass
over one gradient, no message, and no bit of the sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ziggurat.parallel.collectives.gradients import GradientSum
from ziggurat.parallel.collectives.leaf import Leaf
from ziggurat.strategies.squares import fold, row_squares


class FirstGradient:
    """Measures the gradient of microbatch 0 in the steps that are asked for, on the worker that takes it.

    Args:
        sums: Of all parameters, where this worker has whole gradients of its microbatches; else None, and nothing is measured.
    """

    def __init__(self, sums: GradientSum | None) -> None:
        self.sums = sums
        self.squares: list[Tensor] = []

    def begin(self, is_wanted: bool) -> None:
        """Begin a step.

        Args:
            is_wanted: Whether its first microbatch is measured.
        """
        self.squares = []
        if self.sums is not None:
            self.sums.look_at_first = self._look if is_wanted else None

    def norm(self) -> Tensor | None:
        """Return the norm, float64, the same bits on any number of workers; None on a worker that has not measured it."""
        return fold(torch.cat(self.squares)).sum().sqrt() if self.squares else None

    def _look(self, leaf: Leaf) -> None:
        self.squares += row_squares(leaf.tensors)
