"""The candidates of a level: the best predictions, before overlapping ones are dropped.

Where several workers share each image, each finds the best among its own positions. These hold the best of all, which
every worker takes from the candidates of all of them: the same ones, in the same order, as one worker finds.

Shapes: ``N`` candidates of all images of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

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


def join_candidates(levels: Sequence[Candidates], count: int, mesh: SpatialMesh) -> list[Candidates]:
    """Return the best of the candidates of all workers.

    Args:
        levels: Of this worker's positions, by level.
        count: Most candidates of a level and an image.
        mesh: The workers that share the images.

    Communication:
        One all-gather along each spatial axis (40 bytes for each candidate).
    """
    device = levels[0].scores.device
    found = [[level.to(torch.device("cpu")) for level in levels]]
    for axis in mesh.axes:
        found = [part for parts in axis.workers.gather(found) for part in parts]
    return [_best_of(parts, count).to(device) for parts in zip(*found, strict=True)]


def _best_of(parts: Sequence[Candidates], count: int) -> Candidates:
    """Return the best candidates of each image from those of several workers."""
    columns = (torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Candidates))
    joined = Candidates(*columns)
    joined = joined.take(joined.index.argsort(stable=True))
    joined = joined.take(joined.scores.argsort(descending=True, stable=True))
    joined = joined.take(joined.image.argsort(stable=True))
    counts = torch.bincount(joined.image)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    return joined.take(torch.arange(len(first)) - first < count)


def best_scores(scores_P: Tensor, threshold: float, count: int) -> Tensor:
    """Return the indices of the best scores above the threshold, falling; of equal scores the earlier first."""
    index = (scores_P > threshold).nonzero().squeeze(1)
    scores = scores_P[index]
    if len(index) > count:  # find the last one's score first: sorting everything would cost more
        kept = scores >= scores.topk(count).values[-1]
        index, scores = index[kept], scores[kept]
    return index[scores.argsort(descending=True, stable=True)[:count]]
