"""What the run's log says of a step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ziggurat.training.data import TrainingData
from ziggurat.training.step import StepResult

FIRST_EVERY = 10  # steps: of these the gradient of the first microbatch is measured


class StepRecord:
    """The line of ``metrics.jsonl`` for one step, begun before it.

    Args:
        number: Of the step, from 0.
        data: Of the run.
        waited: Seconds that were waited for the step's samples.

    Attributes:
        num_images: Samples of the step, over all workers.
    """

    def __init__(self, number: int, data: TrainingData, waited: float) -> None:
        self.number, self.waited, self.begin = number, waited, time.perf_counter()
        self.num_images = len(data.sampler.batch(number))
        self.epoch = data.sampler.epoch(number)
        pieces = data.pieces(number)
        self.num_of_first = len(pieces[0])
        self.looks_at_first = number % FIRST_EVERY == 0 and len(pieces) > 1

    def row(
        self,
        result: StepResult,
        term_names: Sequence[str],
        optimizer: torch.optim.Optimizer,
        first: Tensor | None,
    ) -> dict[str, Any]:
        """Return the line, now that the step has come to its end.

        Args:
            result: What came of it.
            term_names: Of the loss.
            optimizer: Has the learning rate.
            first: Norm of what the first microbatch has added to the gradient; None where it was not measured.
        """
        seconds, terms = time.perf_counter() - self.begin, result.terms
        by_term = {f"loss_{n}": _finite(v) for n, v in zip(term_names, terms.sum(dim=0), strict=True)}
        measured = {}
        if first is not None:  # a share of the batch: as if all of it were like this one
            whole = first * self.num_images / self.num_of_first
            measured = {"microbatch_gradient_norm": _finite(whole), "microbatch_images": self.num_of_first}
        return {
            "step": self.number + 1,
            "epoch": self.epoch,
            "loss": _finite(terms.sum()),
            **by_term,
            "lr": optimizer.param_groups[0]["lr"],
            "gradient_norm": _finite(result.norm),
            **measured,
            "images": self.num_images,
            "images_per_second": self.num_images / (seconds + self.waited),
            "seconds": seconds,
            "data_seconds": self.waited,
        }


def _finite(value: Tensor) -> float | None:
    """Return a number for JSON, which knows no NaN."""
    return float(value) if value.isfinite() else None
