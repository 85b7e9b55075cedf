"""Grids of levels as a detector has them, and random objects."""

from __future__ import annotations

import torch
from torch import Tensor

from ziggurat.models.levels import Level
from ziggurat.tasks.detection.anchors import Grid, make_grids


def grids_of(height: int, width: int, first: int = 3, last: int = 7) -> list[Grid]:
    levels = {f"p{k}": Level(8, 2**k) for k in range(first, last + 1)}
    sizes = {name: (-(-height // v.stride), -(-width // v.stride)) for name, v in levels.items()}
    return make_grids(levels, sizes, height, width)


def random_boxes(count: int, height: int, width: int, largest: float) -> Tensor:
    bounds = torch.tensor([width, height], dtype=torch.float32)
    low = torch.rand(count, 2) * (bounds - 4)
    size = 2 + (largest - 2) * torch.rand(count, 2) ** 3  # most are small
    return torch.cat([low, torch.minimum(low + size, bounds)], dim=1)
