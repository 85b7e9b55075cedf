"""The image-pyramid network: an image pyramid joined to a hierarchy of networks, the founding idea of this project.

::

    image pyramid     stage 1         stage 2         stage 3
    level 0   ----->  [ / 2 ]  ---->  [ / 4 ]  ---->  [ / 8 ]    one network per level, all of the same form:
                        | ^             | ^             | ^      convolutions, and a pooling that halves
    level 1   ----->  [ / 4 ]  ---->  [ / 8 ]  ---->  [ / 16 ]
                        | ^             | ^             | ^      links between neighbours after every stage
    level 2   ----->  [ / 8 ]  ---->  [ / 16 ] ---->  [ / 32 ]

Every level does the same at another scale: an object twice as large looks to level ``k + 1`` as the smaller one does
to level ``k``. That holds in bits where the levels share their weights. Norms are a level's own in either case: the
levels' statistics differ, and running statistics of a shared norm would be those of whichever level came last.

All poolings round up: after ``s`` stages, level ``k`` has ``ceil(H / 2**(k + s))`` rows, for images of any size.

Shapes: ``B`` images, ``C`` channels, ``H`` and ``W`` rows and columns, ``K`` levels, ``U`` hidden units.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ziggurat.config import PnnConfig
from ziggurat.models.image_pyramid import gaussian_pyramid, laplacian_pyramid
from ziggurat.models.levels import Level, stride_of

PYRAMIDS = {"gaussian": gaussian_pyramid, "laplacian": laplacian_pyramid}


class PnnStage(nn.Module):
    """One stage of the networks of all levels, and the links after it.

    The links of a stage all read what its convolutions and its pooling made, none what another link added: the
    levels can be computed side by side.

    Args:
        config: Its links, weights and depth are used.
        num_levels: Levels of the image pyramid.
        inputs: Channels of each level's map before.
        outputs: Channels of each level's map after.
    """

    def __init__(self, config: PnnConfig, num_levels: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.num_levels = num_levels
        networks, links = _counts(config, num_levels)
        self.convolutions = nn.ModuleList(_stack(config.depth, inputs, outputs) for _ in range(networks))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(config.depth)) for _ in range(num_levels)
        )
        down, up = config.links in ("down", "both"), config.links in ("up", "both")
        self.down = nn.ModuleList(nn.Conv2d(outputs, outputs, 1, bias=False) for _ in range(links * down))
        self.up = nn.ModuleList(nn.Conv2d(outputs, outputs, 1, bias=False) for _ in range(links * up))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the map of each level, half as high and wide (rounded up) as before."""
        maps = [self._network(level, number) for number, level in enumerate(maps)]
        linked = list(maps)
        for fine in range(self.num_levels - 1):
            coarse = fine + 1
            if self.down:
                message = _of_level(self.down, fine)(maps[coarse])
                size = maps[fine].shape[-2:]
                linked[fine] = linked[fine] + functional.interpolate(message, size=size, mode="nearest")
            if self.up:
                message = functional.max_pool2d(maps[fine], 2, ceil_mode=True)
                linked[coarse] = linked[coarse] + _of_level(self.up, fine)(message)
        return linked

    def _network(self, level_BCHW: Tensor, number: int) -> Tensor:
        norms = cast(nn.ModuleList, self.norms[number])
        convolutions = cast(nn.ModuleList, _of_level(self.convolutions, number))
        for convolution, norm in zip(convolutions, norms, strict=True):
            level_BCHW = functional.relu(norm(convolution(level_BCHW)))
        return functional.max_pool2d(level_BCHW, 2, ceil_mode=True)


class PnnTrunk(nn.Module):
    """The image pyramid and all stages.

    Args:
        config: The network; its levels and stages are not used.
        num_levels: Levels of the image pyramid.
        num_stages: Stages; each halves the maps, and doubles the channels of the one before.
        bands: Of the images.

    Attributes:
        channels: Channels of the last maps.
    """

    def __init__(self, config: PnnConfig, num_levels: int, num_stages: int, bands: int = 3) -> None:
        super().__init__()
        self.pyramid = config.pyramid
        self.num_levels = num_levels
        widths = [bands] + [config.channels * 2**stage for stage in range(num_stages)]
        self.stages = nn.ModuleList(
            PnnStage(config, num_levels, inputs, outputs) for inputs, outputs in pairwise(widths)
        )
        self.channels = widths[-1]

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Return the last map of each level, the finest first; the stride of level k is ``2**(k + stages)``."""
        maps = PYRAMIDS[self.pyramid](images_BCHW, self.num_levels)
        for stage in self.stages:
            maps = stage(maps)
        return maps


class PnnClassifier(nn.Module):
    """Every level predicts for itself, and the levels are fused into one prediction.

    A level's map is reduced to the largest value of each channel: an object counts wherever it lies, and however
    little of the image it covers. These maxima are all positive and hardly differ from image to image; a layer norm
    takes away what they have in common, without which the layers above learn very slowly. It needs no statistics of
    a batch, so that a microbatch may be one image. A layer of hidden units follows, and the logits of the level.

    The fused prediction looks at the largest value over the levels of each hidden unit, as the pooling looks at the
    largest over the positions: whichever level sees the object best speaks for it, and the layer that answers is the
    same for objects of every size. With shared weights all levels' objects train all of it but the norms.

    Args:
        config: The network.
        num_classes: Classes.
        bands: Of the images.

    Attributes:
        level_names: Names of the levels' own predictions.
    """

    def __init__(self, config: PnnConfig, num_classes: int, bands: int = 3) -> None:
        super().__init__()
        self.trunk = PnnTrunk(config, config.levels, config.stages, bands)
        self.level_names = tuple(f"level{number}" for number in range(config.levels))
        networks, _ = _counts(config, config.levels)
        self.norms = nn.ModuleList(nn.LayerNorm(self.trunk.channels) for _ in range(networks))
        self.hidden = nn.ModuleList(nn.Linear(self.trunk.channels, config.hidden) for _ in range(networks))
        self.predictors = nn.ModuleList(nn.Linear(config.hidden, num_classes) for _ in range(networks))
        self.fusion = nn.Linear(config.hidden, num_classes)

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the logits of each class, shapes ``(B, num_classes)``: ``logits`` are the fused ones."""
        hidden, logits = [], {}
        for number, level_BCHW in enumerate(self.trunk(images_BCHW)):
            largest_BC = _of_level(self.norms, number)(level_BCHW.amax(dim=(2, 3)))
            hidden.append(functional.relu(_of_level(self.hidden, number)(largest_BC)))
            logits[self.level_names[number]] = _of_level(self.predictors, number)(hidden[-1])
        fused = self.fusion(torch.stack(hidden).amax(dim=0))
        return {"logits": fused, **logits}


class PnnPyramid(nn.Module):
    """The levels' last maps as the pyramid of a detector: what a backbone and a neck are together.

    Args:
        config: The network; levels and stages follow from `names`.
        names: The pyramid's levels, from the finest to the coarsest, each half of the one before.
        channels: Channels of each of its maps.
        bands: Of the images.

    Attributes:
        levels: The levels that it returns, from the finest to the coarsest.
    """

    def __init__(self, config: PnnConfig, names: list[str], channels: int, bands: int = 3) -> None:
        super().__init__()
        self.levels = {name: Level(channels, stride_of(name)) for name in names}
        num_stages = stride_of(names[0]).bit_length() - 1
        self.trunk = PnnTrunk(config, len(names), num_stages, bands)
        networks, _ = _counts(config, len(names))
        self.lateral = nn.ModuleList(nn.Conv2d(self.trunk.channels, channels, 1) for _ in range(networks))

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the map of each level, shape ``(B, channels, ceil(H / stride), ceil(W / stride))``."""
        maps = self.trunk(images_BCHW)
        return {
            name: _of_level(self.lateral, number)(level_BCHW)
            for number, (name, level_BCHW) in enumerate(zip(self.levels, maps, strict=True))
        }


def _counts(config: PnnConfig, num_levels: int) -> tuple[int, int]:
    """Return how many networks there are, and how many links of each direction."""
    if config.weights == "shared":
        return 1, min(1, num_levels - 1)
    return num_levels, num_levels - 1


def _stack(depth: int, inputs: int, outputs: int) -> nn.ModuleList:
    layers = [
        nn.Conv2d(inputs if not n else outputs, outputs, 3, padding=1, bias=False) for n in range(depth)
    ]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.ModuleList(layers)


def _of_level(modules: nn.ModuleList, number: int) -> nn.Module:
    """Return a level's module: its own, or the one that all levels share."""
    return modules[number if len(modules) > 1 else 0]
