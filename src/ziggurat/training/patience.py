"""Early stopping: training ends when its evaluations have not become better for some time.

What decides is in the run's log: the main metric of every evaluation. A run that goes on, on however many workers, reads it
there, and so stops where it would have stopped without the break.
"""

from __future__ import annotations

import math
from collections.abc import Iterable


class Patience:
    """Counts the evaluations since the best one.

    Args:
        allowed: Evaluations in a row that may be no better than the best before them; 0 is patience without end.
        evaluations: Steps and metrics (larger is better) of those before; one that has no value is no better.

    Example:
        >>> patience = Patience(2, [(10, 0.3), (20, 0.5)])
        >>> patience.note(30, 0.5)
        >>> patience.is_over
        False
        >>> patience.note(40, None)
        >>> patience.is_over, patience.best_step
        (True, 20)
    """

    def __init__(self, allowed: int, evaluations: Iterable[tuple[int, float | None]] = ()) -> None:
        self.allowed, self.waited = allowed, 0
        self.best, self.best_step = -math.inf, 0
        for step, metric in evaluations:
            self.note(step, metric)

    def note(self, step: int, metric: float | None) -> None:
        """Take note of an evaluation after so many steps."""
        if metric is not None and metric > self.best:
            self.best, self.best_step, self.waited = metric, step, 0
        else:
            self.waited += 1

    @property
    def is_over(self) -> bool:
        """Whether training ends here."""
        return 0 < self.allowed <= self.waited

    def verdict(self, metric_name: str, done: int) -> str:
        """Say why training has ended."""
        best = (
            "none had a value" if self.best == -math.inf else f"{self.best:.4f} after step {self.best_step}"
        )
        return (
            f"stopped after step {done}: {self.waited} evaluations without a better {metric_name} than the best ({best}); "
            "RUN@best is its checkpoint (checkpoint.keep_best), and --resume --set train.patience=0 goes on"
        )
