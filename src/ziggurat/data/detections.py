"""Found objects: what a detector says of one image, and what metrics and pictures are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PICTURE_SCORE = 0.3  # detections with a lower score are not drawn: a list may be long, a picture must be read


@dataclass(frozen=True)
class Detections:
    """The objects found in one image, the best first.

    Attributes:
        boxes_xyxy: Corners in pixels of the image, float32, shape ``(N, 4)``.
        scores: From 0 to 1, falling, float32, shape ``(N,)``.
        labels: Indices into the class names, int64, shape ``(N,)``.
        num_cut: Detections that a limit has cut off.
        best_cut: The best score among them; 0 if there is none.
        candidates_cut: Those of them that were cut off as candidates: some may have overlapped with others.
        shares: Of each object the share of several models that have found it, float32, shape ``(N,)``; None of one model.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor
    num_cut: int = 0
    best_cut: float = 0.0
    candidates_cut: int = 0
    shares: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class NamedDetections(Detections):
    """The objects found in one image, with the names of their classes, as a program gets them.

    Attributes:
        names: The name of the class of each object.

    Example:
        >>> found = NamedDetections(torch.zeros(1, 4), torch.ones(1), torch.tensor([1]), names=("oak",))
        >>> [(name, score.item()) for name, score in zip(found.names, found.scores)], found.classes.tolist()
        ([('oak', 1.0)], [1])
    """

    names: tuple[str, ...] = ()

    @property
    def classes(self) -> Tensor:
        """Another word for `labels`."""
        return self.labels


def named(found: Detections, classes: Sequence[str]) -> NamedDetections:
    """Return detections with the names of their classes; a class without a name has its number."""
    labels = found.labels.tolist()
    names = tuple(classes[label] if label < len(classes) else str(label) for label in labels)
    return NamedDetections(**vars(found), names=names)


def concatenate(parts: Sequence[Detections]) -> Detections:
    """Return all detections, one part after the other (not ordered by score); there is one part at least."""
    return Detections(
        torch.cat([part.boxes_xyxy for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.labels for part in parts]),
        sum(part.num_cut for part in parts),
        max(part.best_cut for part in parts),
        sum(part.candidates_cut for part in parts),
    )
