"""The candidates of a level: the best predictions, before overlapping ones are dropped.

Where several workers share each image, each finds the best among its own positions. These hold the best of all, which
every worker takes from the candidates of all of them: the same ones, in the same order, as one worker finds.

Shapes: ``N`` candidates of all images of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from ziggurat.parallel.spatial import SpatialMesh


@dataclass(frozen=True)
class Candidates:
    """Candidates of one level: images in order; of an image the best first, of equal ones the one of smaller index.

    Attributes:
        image: Number of the image, int64, shape ``(N,)``.
        index: Of the prediction in its level (rows, columns, anchors, classes), int64, shape ``(N,)``.
        boxes_xyxy: Corners in pixels, shape ``(N, 4)``.
        scores: Shape ``(N,)``.
        labels: int64, shape ``(N,)``.
    """

    image: Tensor
    index: Tensor
    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Candidates:
        """Return the candidates on a device."""
        return Candidates(*(getattr(self, field.name).to(device) for field in fields(self)))

    def take(self, places: Tensor) -> Candidates:
        """Return some of the candidates."""
        return Candidates(*(getattr(self, field.name)[places] for field in fields(self)))


class Level(NamedTuple):
    """What there is of one level.

    Attributes:
        candidates: The best.
        cut: Of each image how many others there were above the threshold, and the best score of them.
    """

    candidates: Candidates
    cut: list[tuple[int, float]]


def join_candidates(levels: Sequence[Level], count: int, mesh: SpatialMesh) -> list[Level]:
    """Return the best of the candidates of all workers.

    Args:
        levels: Of this worker's positions.
        count: Most candidates of a level and an image.
        mesh: The workers that share the images.

    Communication:
        One all-gather along each spatial axis (40 bytes for each candidate).
    """
    device = levels[0].candidates.scores.device
    found = [[Level(level.candidates.to(torch.device("cpu")), level.cut) for level in levels]]
    for axis in mesh.axes:
        found = [part for parts in axis.workers.gather(found) for part in parts]
    joined = [_best_of(parts, count) for parts in zip(*found, strict=True)]
    return [Level(level.candidates.to(device), level.cut) for level in joined]


def joined_cut(parts: Iterable[tuple[int, float]]) -> tuple[int, float]:
    """Return how much was cut off in all, and the best score of it."""
    numbers, scores = zip(*parts, strict=True)
    return sum(numbers), max(scores)


def _best_of(levels: Sequence[Level], count: int) -> Level:
    """Return the best candidates of each image from those of several workers."""
    parts = [level.candidates for level in levels]
    columns = (torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Candidates))
    joined = Candidates(*columns)
    joined = joined.take(joined.index.argsort(stable=True))
    joined = joined.take(joined.scores.argsort(descending=True, stable=True))
    joined = joined.take(joined.image.argsort(stable=True))
    counts = torch.bincount(joined.image)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    kept = torch.arange(len(first)) - first < count
    rest = joined.take(~kept)
    cut = []
    for image, earlier in enumerate(zip(*(level.cut for level in levels), strict=True)):
        scores = rest.scores[rest.image == image]
        cut.append(joined_cut([*earlier, (len(scores), float(scores.max()) if len(scores) else 0.0)]))
    return Level(joined.take(kept), cut)


def best_scores(scores_P: Tensor, threshold: float, count: int) -> tuple[Tensor, tuple[int, float]]:
    """Return the best scores above the threshold, and what was cut off.

    Args:
        scores_P: Of all predictions.
        threshold: Lower ones are none.
        count: Most that are returned.

    Returns:
        The index of each, by falling score, of equal ones the earlier first; and how many others there are, with the best score of
        them.
    """
    index = (scores_P > threshold).nonzero().squeeze(1)
    scores = scores_P[index]
    cut = (0, 0.0)
    if len(index) > count:  # find the last one's score first: sorting everything would cost more
        last, best_cut = scores.topk(count + 1).values[-2:]
        cut = (len(index) - count, float(best_cut))
        kept = scores >= last
        index, scores = index[kept], scores[kept]
    return index[scores.argsort(descending=True, stable=True)[:count]], cut
