"""The numbers of every step of a run, from its ``metrics.jsonl``, and a smooth curve through them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_WINDOW = 0.04  # of all steps, that a point of the smooth curve is the mean of


@dataclass(frozen=True)
class History:
    """What was written of a run.

    Attributes:
        train: Numbers of each training step by name, float64; ``step`` counts from 1. NaN where a step has none.
        val: The same of each evaluation.
    """

    train: dict[str, np.ndarray]
    val: dict[str, np.ndarray]

    @property
    def last_step(self) -> int:
        """Steps that are done."""
        steps = [*self.train.get("step", []), *self.val.get("step", [])]
        return int(max(steps, default=0))


def read_history(path: Path) -> History:
    """Read a run's ``metrics.jsonl``; a run without steps, or without the file, has an empty history."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines]
    return History(*(_columns([row for row in rows if row["kind"] == kind]) for kind in ("train", "val")))


def _columns(rows: list[dict[str, object]]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(
        name for row in rows for name, value in row.items() if isinstance(value, int | float)
    )
    return {name: np.array([_number(row.get(name)) for row in rows]) for name in names}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def smooth(values: np.ndarray) -> np.ndarray:
    """Return the mean of each value and its neighbours, as far as there are any at both ends.

    Args:
        values: Finite, shape ``(N,)``.

    Example:
        >>> smooth(np.arange(50.0))[[0, 1, 25, 49]].tolist()
        [0.5, 1.0, 25.0, 48.5]
    """
    place, half = np.arange(len(values)), round(len(values) * _WINDOW / 2)
    first, end = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    sums = np.concatenate([[0.0], values.cumsum()])
    means: np.ndarray = (sums[end] - sums[first]) / (end - first)
    return means
