"""Spatial pyramid pooling: maps of any size become vectors of one length.

Shapes: ``B`` images, ``C`` channels, ``H`` and ``W`` rows and columns of the map.

References:
    He et al., Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition, 2014, section 2.2.
    https://arxiv.org/abs/1406.4729
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.models.backbone import Backbone


def parse_bins(text: str) -> list[int]:
    """Return the bins along each side, level by level.

    Raises:
        UserError: If the text is not a list of positive numbers with commas between.

    Example:
        >>> parse_bins("4,2,1")
        [4, 2, 1]
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]+", part) and int(part) > 0 for part in parts):
        raise UserError(
            f"model.spp_bins must be positive numbers with commas between, such as 4,2,1: got '{text}'"
        )
    return [int(part) for part in parts]


class SpatialPyramidPooling(nn.Module):
    """The largest value of each channel in every bin of grids of several sizes.

    The bins of a grid cover the map; as in PyTorch's adaptive pooling, bin ``i`` of ``n`` holds the rows from
    ``floor(i * H / n)`` to ``ceil((i + 1) * H / n)``. Bins of a map with fewer rows than bins share rows.
    Slices and maxima, not PyTorch's adaptive pooling: its backward pass adds atomically on GPUs.

    Args:
        bins: Bins along each side, level by level.
    """

    def __init__(self, bins: list[int]) -> None:
        super().__init__()
        self.bins = tuple(bins)
        self.num_bins = sum(n * n for n in bins)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """Return the maxima, shape ``(B, C * num_bins)``: level by level, of each channel all bins row by row."""
        rows = [[row.amax(dim=2) for row in _cut(map_BCHW, 2, n)] for n in self.bins]  # shapes (B, C, W)
        levels = [
            torch.stack([part.amax(dim=2) for row in of_level for part in _cut(row, 2, n)], dim=2)
            for n, of_level in zip(self.bins, rows, strict=True)
        ]
        return torch.cat([level_BCN.flatten(1) for level_BCN in levels], dim=1)


def _cut(tensor: Tensor, dim: int, count: int) -> list[Tensor]:
    """Return `count` slices along a dim that cover it, none empty."""
    extent = tensor.shape[dim]
    # no number below 0 is divided: ONNX rounds those up
    edges = [(i * extent // count, ((i + 1) * extent + count - 1) // count) for i in range(count)]
    return [tensor.narrow(dim, start, stop - start) for start, stop in edges]


class SppClassifier(nn.Module):
    """A backbone, spatial pyramid pooling of its last map, and one fully connected layer.

    Args:
        backbone: Its coarsest level is used.
        bins: Bins along each side, level by level.
        num_classes: Classes.
    """

    def __init__(self, backbone: Backbone, bins: list[int], num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.level, last = list(backbone.levels.items())[-1]
        self.pooling = SpatialPyramidPooling(bins)
        self.predictor = nn.Linear(last.channels * self.pooling.num_bins, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return the logits of each class, shape ``(B, num_classes)``."""
        logits: Tensor = self.predictor(self.pooling(self.backbone(images_BCHW)[self.level]))
        return logits
