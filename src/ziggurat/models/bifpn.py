"""The bidirectional feature pyramid of EfficientDet: both paths, with learned weights at every sum, several times.

One repeat for levels p3 to p5. Every ``o`` is a `Fusion`; the second path also sees the level's own input, except at
the coarsest level, where the first path has nothing to add::

    p5 --+--------------> o  -> p5
         v                ^
    p4 --o -------------> o  -> p4     (and p4 itself, past the first o)
         v                ^
    p3 --o ---------------+  -> p3
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ziggurat.errors import UserError
from ziggurat.models.fpn import initialize
from ziggurat.models.levels import Level, stride_of
from ziggurat.models.norm import replace_norms

DEPTH = 3  # of EfficientDet-D0
NORM_EPS = 1e-3  # as EfficientDet has it
# EfficientDet's own 0.01 is meant for hundreds of epochs: after 100 microbatches a third of the running statistics
# would still be their arbitrary first values; with 0.03 it is a twentieth
NORM_MOMENTUM = 0.03
FUSION_EPS = 1e-4


class BiFpn(nn.Module):
    """The same function as EfficientDet's BiFPN with fast normalized fusion.

    Args:
        inputs: The backbone's levels, from the finest to the coarsest.
        names: The pyramid's levels, from the finest to the coarsest; begins with the names of `inputs`.
        channels: Channels of each of its maps.
        depth: Times that both paths are repeated; 0 stands for 3.
        norm: ``batch``: batch norms, as in EfficientDet. Their statistics are those of one microbatch: at a coarse
            level of small images a handful of values for each channel, which is noisy, and impossible where there
            is one value. ``group``: group norms, which know one image only: the choice for microbatches of one
            or two images. ``frozen``: group norms as well, because a neck that starts from random weights has no
            statistics that could be frozen.

    Raises:
        UserError: If there is one level only: nothing to fuse.

    References:
        Tan et al., EfficientDet: Scalable and Efficient Object Detection, 2020, section 3.
        https://arxiv.org/abs/1911.09070
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
        if len(names) < 2:
            raise UserError(
                f"the neck bifpn fuses neighbouring levels: model.levels must name two or more, got {names[0]}"
            )
        self.levels = {name: Level(channels, stride_of(name)) for name in names}
        widths = {name: level.channels for name, level in inputs.items()}
        self.extra = nn.ModuleDict()
        for below, name in itertools.pairwise(names):
            if name not in widths:
                self.extra[name] = _projection(widths[below], channels)
                widths[name] = channels
        self.repeats = nn.ModuleList()
        for _ in range(depth or DEPTH):
            self.repeats.append(BothPaths(widths, channels))
            widths = dict.fromkeys(names, channels)
        initialize(self)
        self._has_batch_norms = norm == "batch"
        replace_norms(self, "batch" if norm == "batch" else "group")

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the map of each level, shape ``(B, channels, H / stride, W / stride)``.

        Raises:
            UserError: In training with batch norms, if the coarsest map of the microbatch has a single position.
        """
        pyramid = dict(maps)
        top = pyramid[list(pyramid)[-1]]
        if self.training and self._has_batch_norms:
            self._check_values(top)
        for name, project in self.extra.items():
            top = functional.max_pool2d(project(top), 3, stride=2, padding=1)
            pyramid[name] = top
        for both_paths in self.repeats:
            pyramid = both_paths(pyramid)
        return pyramid

    def _check_values(self, top_BCHW: Tensor) -> None:
        """Refuse a coarsest level that has one value of each channel, and therefore no deviation."""
        images, _, rows, columns = top_BCHW.shape
        factor = 1 << len(self.extra)
        if images * -(-rows // factor) * -(-columns // factor) == 1:
            raise UserError(
                f"batch norm needs more than one value of each channel: {list(self.levels)[-1]} is one position of "
                "one image; use model.norm=group, larger crops, larger microbatches, or fewer levels"
            )


class BothPaths(nn.Module):
    """One repeat: from coarse to fine, and back.

    Args:
        widths: Channels of each level's input, from the finest to the coarsest.
        channels: Channels of each level's output.
    """

    def __init__(self, widths: dict[str, int], channels: int) -> None:
        super().__init__()
        names = list(widths)
        self.top_down, self.bottom_up = nn.ModuleDict(), nn.ModuleDict()
        above = widths[names[-1]]
        for name in reversed(names[:-1]):
            self.top_down[name] = Fusion([widths[name], above], channels)
            above = channels
        for name in names[1:]:
            own = [widths[name]] if name == names[-1] else [widths[name], channels]
            self.bottom_up[name] = Fusion([*own, channels], channels)

    def forward(self, pyramid: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the map of each level, in the rows and columns of its input."""
        names = list(pyramid)
        down = {names[-1]: pyramid[names[-1]]}
        for coarse, fine in itertools.pairwise(reversed(names)):
            down[fine] = self.top_down[fine]([pyramid[fine], down[coarse]])
        up = {names[0]: down[names[0]]}
        for fine, coarse in itertools.pairwise(names):
            own = [pyramid[coarse]] if coarse == names[-1] else [pyramid[coarse], down[coarse]]
            up[coarse] = self.bottom_up[coarse]([*own, up[fine]])
        return up


class Fusion(nn.Module):
    """Brings maps to one size, adds them with learned weights, and convolves the sum.

    Args:
        widths: Channels of each map; those of another number than `channels` are projected first.
        channels: Channels of the result.

    References:
        Tan et al., EfficientDet, 2020, section 3.3 (fast normalized fusion) and figure 3.
    """

    def __init__(self, widths: list[int], channels: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(_projection(width, channels) for width in widths)
        self.weight = nn.Parameter(torch.ones(len(widths)))
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = _batch_norm(channels)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return the fused map.

        Args:
            maps: The level's own map first; finer and coarser ones are brought to its rows and columns.
        """
        size = maps[0].shape[-2:]
        fitted = [_fit(project(one), size) for project, one in zip(self.project, maps, strict=True)]
        weight = functional.relu(self.weight)
        shares = (weight / (weight.sum() + FUSION_EPS)).to(fitted[0].dtype).unbind()
        total = fitted[0] * shares[0]
        for one, share in zip(fitted[1:], shares[1:], strict=True):
            total = total + one * share
        result: Tensor = self.norm(self.pointwise(self.depthwise(functional.silu(total))))
        return result


def _projection(inputs: int, channels: int) -> nn.Module:
    if inputs == channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, channels, 1, bias=False), _batch_norm(channels))


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)


def _fit(level_BCHW: Tensor, size: torch.Size) -> Tensor:
    """Return a map in other rows and columns: a coarser one repeated, a finer one by the largest of 3 x 3."""
    rows, columns = level_BCHW.shape[-2:]
    if (rows, columns) == size:
        return level_BCHW
    if rows < size[0] or columns < size[1]:
        return functional.interpolate(level_BCHW, size=size, mode="nearest")
    return functional.max_pool2d(level_BCHW, 3, stride=2, padding=1)
