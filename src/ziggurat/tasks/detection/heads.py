"""What a detector's head needs besides its network: which prediction answers for which object, and what it says of a box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ziggurat.tasks.detection.anchors import Grid
from ziggurat.tasks.detection.assignment import Assignment
from ziggurat.tasks.detection.atss import AtssAssigner, AtssBoxCoder
from ziggurat.tasks.detection.fcos import FcosAssigner, FcosBoxCoder
from ziggurat.tasks.detection.retinanet import RetinaNetAssigner, RetinaNetBoxCoder


class Assigner(Protocol):
    """Assigns objects to predictions.

    Attributes:
        num_anchors: Predictions at each position.
    """

    num_anchors: int

    def base_anchors(self, stride: int, device: torch.device) -> Tensor:
        """Return the anchors about (0, 0) of a level, float32, shape ``(A, 4)``."""
        ...

    def match(self, boxes_M4: Tensor, image_M: Tensor, num_images: int, grids: list[Grid]) -> Tensor:
        """Return each prediction's object, `NEGATIVE` or `IGNORED`, int64, shape ``(B, P)``.

        Args:
            boxes_M4: The objects in pixels, float32.
            image_M: The image of each object, int64, rising.
            num_images: Images of the microbatch.
            grids: The positions of each level, from the finest to the coarsest.
        """
        ...


class BoxCoder(Protocol):
    """Compares predictions with objects, and decodes them.

    Attributes:
        term_names: The terms of the loss; ``classes`` first.
        box_normalizer: What the weights of the positives' boxes are: ``positives`` where each weighs 1.
    """

    term_names: tuple[str, ...]
    box_normalizer: str

    def box_weights(self, assignment: Assignment) -> Tensor:
        """Return the sum of the weights of each image's positives in the box term, float64, shape ``(B,)``."""
        ...

    def losses(self, values: dict[str, Tensor], anchors_N4: Tensor, boxes_N4: Tensor) -> dict[str, Tensor]:
        """Return the loss of each positive for every term but the classes, each of shape ``(N,)``.

        Args:
            values: The outputs of each of these terms at the positives.
            anchors_N4: The anchor of each positive.
            boxes_N4: The object of each positive.
        """
        ...

    def decode(self, boxes_N4: Tensor, anchors_N4: Tensor) -> Tensor:
        """Return the corners in pixels of predicted boxes, shape ``(N, 4)``."""
        ...

    def scores(self, terms: dict[str, Tensor]) -> Tensor:
        """Return the score of each class, shape ``(B, A * num_classes, H, W)``."""
        ...


@dataclass(frozen=True)
class Head:
    """A head.

    Attributes:
        assigner: Which prediction answers for which object.
        coder: What a prediction says of a box.
        normalizer: What the loss is divided by, as the reference implementation of its paper has it.
    """

    assigner: Assigner
    coder: BoxCoder
    normalizer: str


HEADS = {
    "fcos": Head(FcosAssigner(), FcosBoxCoder(), "positives"),
    "retinanet": Head(RetinaNetAssigner(), RetinaNetBoxCoder(), "images"),
    "atss": Head(AtssAssigner(), AtssBoxCoder(), "positives"),
}
