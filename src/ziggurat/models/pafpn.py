"""The path aggregation network: a feature pyramid with a second path, from the finest level to the coarsest.

The first path brings meaning down to the fine levels; the second brings places up to the coarse ones, past the many
layers of the backbone::

    c5 -> p5 ----------> n5 -> n6 -> n7
           |             ^
    c4 -> p4 ----------> n4
           |             ^
    c3 -> p3 =========== n3
"""

from __future__ import annotations

import itertools
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from ziggurat.models.fpn import FeaturePyramid, add_extra, initialize, make_extra
from ziggurat.models.levels import Level, stride_of


class PathAggregation(nn.Module):
    """A feature pyramid, a path from fine to coarse, and coarser levels on top as a feature pyramid has them.

    Args:
        inputs: The backbone's levels, from the finest to the coarsest.
        names: The pyramid's levels, from the finest to the coarsest; begins with the names of `inputs`.
        channels: Channels of each of its maps.
        depth: Times that both paths are repeated, each time on the maps of the last; 0 stands for 1, the paper's.
        norm: Without effect: it has no norms.

    References:
        Liu et al., Path Aggregation Network for Instance Segmentation, 2018, section 3.1.
        https://arxiv.org/abs/1803.01534
    """

    def __init__(
        self,
        inputs: dict[str, Level],
        names: list[str],
        channels: int,
        depth: int = 0,
        norm: Literal["batch", "frozen", "group"] = "batch",
    ) -> None:
        super().__init__()
        self.levels = {name: Level(channels, stride_of(name)) for name in names}
        self.top_down = nn.ModuleList()
        self.bottom_up = nn.ModuleList()
        for _ in range(max(1, depth)):
            self.top_down.append(FeaturePyramid(inputs, list(inputs), channels))
            self.bottom_up.append(BottomUpPath(list(inputs), channels))
            inputs = {name: self.levels[name] for name in inputs}
        self.extra = make_extra([name for name in names if name not in inputs], channels)
        initialize(self.extra)

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the map of each level, shape ``(B, channels, H / stride, W / stride)``."""
        for top_down, bottom_up in zip(self.top_down, self.bottom_up, strict=True):
            maps = bottom_up(top_down(maps))
        return add_extra(maps, self.extra)


class BottomUpPath(nn.Module):
    """Adds to each level what the next finer one has found.

    Args:
        names: The levels, from the finest to the coarsest.
        channels: Channels of each of their maps.
    """

    def __init__(self, names: list[str], channels: int) -> None:
        super().__init__()
        coarser = names[1:]
        self.reduce = nn.ModuleDict(
            {n: nn.Conv2d(channels, channels, 3, stride=2, padding=1) for n in coarser}
        )
        self.smooth = nn.ModuleDict({n: nn.Conv2d(channels, channels, 3, padding=1) for n in coarser})
        initialize(self)

    def forward(self, pyramid: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the map of each level in its own shape; the finest stays as it is.

        Every convolution is followed by a ReLU, as the paper says.
        """
        names = list(pyramid)
        merged = {names[0]: pyramid[names[0]]}
        for fine, coarse in itertools.pairwise(names):
            reduced = functional.relu(self.reduce[coarse](merged[fine]))
            merged[coarse] = functional.relu(self.smooth[coarse](pyramid[coarse] + reduced))
        return merged
