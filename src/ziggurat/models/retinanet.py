"""The RetinaNet head: at every position, for each of nine anchors, a class and how the anchor becomes its box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from ziggurat.models.tower import PRIOR, make_predictor, make_tower


class RetinaNetHead(nn.Module):
    """The same function as torchvision's ``RetinaNetHead``.

    Args:
        channels: Channels of every level.
        num_classes: Classes, without a background.
        depth: Convolutions of each tower.
        levels: Without effect: all levels share all weights.

    References:
        Lin et al., Focal Loss for Dense Object Detection, 2017, section 4. https://arxiv.org/abs/1708.02002
    """

    kind: Literal["retinanet"] = "retinanet"
    num_anchors = 9

    def __init__(self, channels: int, num_classes: int, depth: int, levels: Sequence[str] = ()) -> None:
        super().__init__()
        self.classes_tower = make_tower(channels, depth, norm="none")
        self.boxes_tower = make_tower(channels, depth, norm="none")
        self.classes = make_predictor(channels, self.num_anchors * num_classes, PRIOR)
        self.boxes = make_predictor(channels, self.num_anchors * 4)

    def forward(self, pyramid: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Return the terms of each level.

        Args:
            pyramid: The map of each level, shape ``(B, channels, H, W)``.

        Returns:
            For each level: ``classes``, logits, shape ``(B, 9 * num_classes, H, W)``; ``boxes``, the shift of the
            anchor's centre in units of its size and the logarithm of its enlargement, each for x and y, shape
            ``(B, 9 * 4, H, W)``. The channels of one anchor are neighbours.
        """
        return {
            name: {
                "classes": self.classes(self.classes_tower(level_BCHW)),
                "boxes": self.boxes(self.boxes_tower(level_BCHW)),
            }
            for name, level_BCHW in pyramid.items()
        }
