"""The FCOS head: at every position a class, the distances to the four sides of its box, and its centerness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from ziggurat.models.tower import PRIOR, make_predictor, make_tower


class FcosHead(nn.Module):
    """The same function as torchvision's ``FCOSHead``.

    Args:
        channels: Channels of every level.
        num_classes: Classes, without a background.
        depth: Convolutions of each tower.
        levels: Without effect: all levels share all weights.

    References:
        Tian et al., FCOS: A simple and strong anchor-free object detector, 2020, section 3.
        https://arxiv.org/abs/2006.09214
    """

    kind: Literal["fcos"] = "fcos"
    num_anchors = 1

    def __init__(self, channels: int, num_classes: int, depth: int, levels: Sequence[str] = ()) -> None:
        super().__init__()
        self.classes_tower = make_tower(channels, depth, norm="group")
        self.boxes_tower = make_tower(channels, depth, norm="group")
        self.classes = make_predictor(channels, num_classes, PRIOR)
        self.boxes = make_predictor(channels, 4)
        self.centerness = make_predictor(channels, 1)

    def forward(self, pyramid: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Return the terms of each level.

        Args:
            pyramid: The map of each level, shape ``(B, channels, H, W)``.

        Returns:
            For each level: ``classes``, logits, shape ``(B, num_classes, H, W)``; ``boxes``, distances to the left,
            upper, right and lower side in units of the level's stride, not negative, shape ``(B, 4, H, W)``;
            ``centerness``, logits, shape ``(B, 1, H, W)``.
        """
        return {name: self._terms(level_BCHW) for name, level_BCHW in pyramid.items()}

    def _terms(self, level_BCHW: Tensor) -> dict[str, Tensor]:
        boxes_BCHW = self.boxes_tower(level_BCHW)
        return {
            "classes": self.classes(self.classes_tower(level_BCHW)),
            "boxes": functional.relu(self.boxes(boxes_BCHW)),
            "centerness": self.centerness(boxes_BCHW),
        }
