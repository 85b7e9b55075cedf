"""What an evaluation says, in a form that is drawn and printed alike for all tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ziggurat.metrics.counts import Counts
from ziggurat.metrics.curves import Curve
from ziggurat.metrics.mistakes import Mistakes
from ziggurat.metrics.scores import BestScore, ScoreCurve

BACKGROUND = "(background)"  # in brackets: a class may have this name


@dataclass(frozen=True)
class ClassRow:
    """The numbers of one class.

    Attributes:
        name: Of the class.
        count: Its objects, images or pixels.
        values: In [0, 1], by name, or None where there is nothing to count; the first is what it is validated by.
        best: See `BestScore`; None where nothing of it is right at any score, or the task has no scores.
    """

    name: str
    count: int
    values: dict[str, float | None]
    best: BestScore | None = None


@dataclass(frozen=True)
class Findings:
    """What an evaluation says.

    Attributes:
        unit: What is counted: ``objects``, ``images`` or ``pixels``.
        metrics: Of all classes together, by name.
        rows: Of each class.
        confusion: Rows are the truth, columns the prediction; int64, shape ``(len(labels), len(labels))``; None where
            nothing can be taken for something else.
        labels: Names of the rows of `confusion`.
        curves: Precision over recall of each class that occurs; None where the task has none.
        curve_title: What `curves` are.
        quality: Of each image, in [0, 1], float64, shape ``(images,)``.
        quality_name: What `quality` is.
        richness: How much there is on an image.
        scores: Precision and recall over the least score of what counts; None where there are no scores.
        counts: Objects of each image; None where nothing is counted.
        mistakes: Where large images have them; nothing where that cannot be said of places.
    """

    unit: str
    metrics: dict[str, float | None]
    rows: list[ClassRow]
    confusion: np.ndarray | None
    labels: tuple[str, ...]
    curves: list[Curve] | None
    curve_title: str
    quality: Tensor
    quality_name: str
    richness: Callable[[int], int]
    scores: ScoreCurve | None = None
    counts: Counts | None = None
    mistakes: Sequence[Mistakes] = ()

    @classmethod
    def of_quality(
        cls, unit: str, metrics: dict[str, float | None], quality: Tensor, quality_name: str
    ) -> Findings:
        """Return findings without classes: how good each image's prediction is, and the metrics."""
        return cls(unit, metrics, [], None, (), None, "", quality, quality_name, lambda index: 1)


def class_shares(
    classes: tuple[str, ...], confusion: np.ndarray
) -> list[tuple[str, int, float | None, float | None, float | None]]:
    """Return each class's name, count, recall, precision and IoU."""
    right, true, found = (
        confusion.diagonal().tolist(),
        confusion.sum(axis=1).tolist(),
        confusion.sum(axis=0).tolist(),
    )
    return [
        (name, t, _share(r, t), _share(r, f), _share(r, t + f - r))
        for name, r, t, f in zip(classes, right, true, found, strict=True)
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
