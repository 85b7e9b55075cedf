"""The ATSS head: at every position, for one square anchor, a class, how the anchor becomes its box, and centerness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ziggurat.models.tower import PRIOR, make_predictor, make_tower


class AtssHead(nn.Module):
    """The head of FCOS with the boxes of an anchor, and a learned factor of the boxes of each level.

    Args:
        channels: Channels of every level.
        num_classes: Classes, without a background.
        depth: Convolutions of each tower.
        levels: Names of the pyramid's levels.

    References:
        Zhang et al., Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
        Selection, 2020, section 4. https://arxiv.org/abs/1912.02424
    """

    kind: Literal["atss"] = "atss"
    num_anchors = 1

    def __init__(self, channels: int, num_classes: int, depth: int, levels: Sequence[str]) -> None:
        super().__init__()
        self.classes_tower = make_tower(channels, depth, norm="group")
        self.boxes_tower = make_tower(channels, depth, norm="group")
        self.classes = make_predictor(channels, num_classes, PRIOR)
        self.boxes = make_predictor(channels, 4)
        self.centerness = make_predictor(channels, 1)
        self.scales = nn.ParameterDict({name: torch.ones(1) for name in levels})

    def forward(self, pyramid: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Return the terms of each level.

        Args:
            pyramid: The map of each level, shape ``(B, channels, H, W)``.

        Returns:
            For each level: ``classes``, logits, shape ``(B, num_classes, H, W)``; ``boxes``, the shift of the
            anchor's centre in tenths of its size and the logarithm of its enlargement in fifths, each for x and y,
            shape ``(B, 4, H, W)``; ``centerness``, logits, shape ``(B, 1, H, W)``.
        """
        return {name: self._terms(level_BCHW, self.scales[name]) for name, level_BCHW in pyramid.items()}

    def _terms(self, level_BCHW: Tensor, scale: Tensor) -> dict[str, Tensor]:
        tower_BCHW = self.boxes_tower(level_BCHW)
        boxes_BCHW = self.boxes(tower_BCHW)
        return {
            "classes": self.classes(self.classes_tower(level_BCHW)),
            "boxes": boxes_BCHW * scale.to(boxes_BCHW.dtype),
            "centerness": self.centerness(tower_BCHW),
        }
