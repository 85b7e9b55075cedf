"""The feature pyramid network: semantically strong maps at every level."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from ziggurat.errors import UserError
from ziggurat.models.levels import Level, stride_of


class FeaturePyramid(nn.Module):
    """Merges the backbone's maps from the coarsest to the finest, and adds coarser levels on top.

    The same function as torchvision's ``FeaturePyramidNetwork`` with ``LastLevelP6P7`` on its own output.

    Args:
        inputs: The backbone's levels, from the finest to the coarsest.
        names: The pyramid's levels, from the finest to the coarsest; begins with the names of `inputs`.
        channels: Channels of each of its maps.
        depth: 1, or 0 for the same: its one path is not repeated.
        norm: Without effect: it has no norms.

    Raises:
        UserError: If `depth` is larger.

    References:
        Lin et al., Feature Pyramid Networks for Object Detection, 2017, section 3.
        https://arxiv.org/abs/1612.03144
        Lin et al., Focal Loss for Dense Object Detection, 2017, footnote 2 (p6 and p7).
        https://arxiv.org/abs/1708.02002
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
        if depth > 1:
            raise UserError(
                f"model.neck_depth must be 0 or 1 for the neck fpn, which has one path: got {depth} "
                "(pafpn and bifpn repeat theirs)"
            )
        self.levels = {name: Level(channels, stride_of(name)) for name in names}
        self.lateral = nn.ModuleDict({n: nn.Conv2d(i.channels, channels, 1) for n, i in inputs.items()})
        self.smooth = nn.ModuleDict({n: nn.Conv2d(channels, channels, 3, padding=1) for n in inputs})
        self.extra = make_extra([name for name in names if name not in inputs], channels)
        initialize(self)

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the map of each level, shape ``(B, channels, H / stride, W / stride)``."""
        merged = {name: lateral(maps[name]) for name, lateral in self.lateral.items()}
        names = list(merged)
        for fine, coarse in zip(reversed(names[:-1]), reversed(names[1:]), strict=True):
            size = merged[fine].shape[-2:]
            merged[fine] = merged[fine] + functional.interpolate(merged[coarse], size=size, mode="nearest")
        return add_extra({name: smooth(merged[name]) for name, smooth in self.smooth.items()}, self.extra)


def make_extra(names: list[str], channels: int) -> nn.ModuleDict:
    """Return the convolutions that make the levels above the backbone's coarsest."""
    return nn.ModuleDict({name: nn.Conv2d(channels, channels, 3, stride=2, padding=1) for name in names})


def add_extra(pyramid: dict[str, Tensor], extra: nn.ModuleDict) -> dict[str, Tensor]:
    """Return a pyramid with coarser levels, each made of the one below; a ReLU lies between them.

    Args:
        pyramid: The map of each level, from the finest to the coarsest.
        extra: As `make_extra` returns it.
    """
    pyramid = dict(pyramid)
    top = pyramid[list(pyramid)[-1]]
    for number, (name, reduce) in enumerate(extra.items()):
        top = reduce(functional.relu(top) if number else top)
        pyramid[name] = top
    return pyramid


def initialize(module: nn.Module) -> None:
    """Draw the weights of every convolution so that it keeps the variance of its input; biases start at 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
