"""A 3-d U-Net of the size of MLPerf's: five levels below the first, instance norm, 32 to 320 channels."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

CHANNELS = (32, 64, 128, 256, 320, 320)


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return two convolutions, each with its norm."""
    layers: list[nn.Module] = []
    for number in range(2):
        step = stride if number == 0 else 1
        layers += [
            nn.Conv3d(inputs if number == 0 else outputs, outputs, 3, step, 1, bias=False),
            nn.InstanceNorm3d(outputs, affine=True),
            nn.LeakyReLU(0.01),
        ]
    return nn.Sequential(*layers)


class VolumeUNet(nn.Module):
    """Classes of each voxel.

    Args:
        bands: Of a volume.
        num_classes: How many.
        channels: Of each level, the finest first.
    """

    def __init__(self, bands: int = 1, num_classes: int = 3, channels: tuple[int, ...] = CHANNELS) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(channels))
        self.first = block(bands, channels[0])
        self.down = nn.ModuleList(block(fine, coarse, 2) for fine, coarse in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose3d(coarse, fine, 2, 2) for fine, coarse in pairs)
        self.join = nn.ModuleList(block(2 * fine, fine) for fine, _ in pairs)
        self.classes = nn.Conv3d(channels[0], num_classes, 1)

    def forward(self, volume: Tensor) -> Tensor:
        """Return scores, shape ``(B, num_classes, D, H, W)``, of volumes ``(B, bands, D, H, W)``."""
        levels = [self.first(volume)]
        for down in self.down:
            levels.append(down(levels[-1]))
        map_ = levels.pop()
        for up, join in zip(reversed(self.up), reversed(self.join), strict=True):
            map_ = join(torch.cat([up(map_), levels.pop()], dim=1))
        scores: Tensor = self.classes(map_)
        return scores


def unet() -> nn.Module:
    """Return the network, as ``ziggurat plan volumes:unet`` takes it."""
    return VolumeUNet()


def small_unet() -> nn.Module:
    """Return one of three levels and few channels."""
    return VolumeUNet(channels=(4, 8, 8))
