"""Deep pyramidal residual networks: every block has a few channels more than the one before.

Shapes: ``B`` images, ``C`` channels, ``H`` and ``W`` rows and columns.

References:
    Han, Kim and Kim, Deep Pyramidal Residual Networks, 2017. https://arxiv.org/abs/1610.02915
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from ziggurat.errors import UserError

FIRST_CHANNELS = 16
NUM_GROUPS = 3  # of blocks; each but the first halves the map
WIDENING = 4  # from a bottleneck's channels to those that it returns
FORM = "pyramidnet-DEPTH-ALPHA with the endings -bottleneck and -multiplicative"


@dataclass(frozen=True)
class PyramidNetOptions:
    """Which network of the family.

    Attributes:
        depth: Layers with weights, ``6 n + 2`` (basic) or ``9 n + 2`` (bottleneck).
        alpha: Widening: channels that are added over all blocks, or the factor over all blocks.
        bottleneck: Blocks of three convolutions instead of two.
        multiplicative: Channels grow by a constant factor instead of a constant difference.
    """

    depth: int
    alpha: float
    bottleneck: bool = False
    multiplicative: bool = False

    @property
    def blocks_per_group(self) -> int:
        """The ``n`` of the depth."""
        return (self.depth - 2) // _layers(self.bottleneck)

    def channels(self) -> list[int]:
        """Return the channels of every block (of a bottleneck: before they are widened fourfold).

        Equations 2 and 3, but rounded down from the exact value, not from the block before: with a difference below
        one nothing would grow, and the paper's own parameter counts would not come out.
        """
        count = NUM_GROUPS * self.blocks_per_group
        if self.multiplicative:
            exact = [FIRST_CHANNELS * self.alpha ** (k / count) for k in range(1, count + 1)]
        else:
            exact = [FIRST_CHANNELS + self.alpha * k / count for k in range(1, count + 1)]
        # a value that should be whole may have been computed as a little less
        return [math.floor(value + 1e-9) for value in exact]


def parse_pyramidnet(name: str) -> PyramidNetOptions:
    """Return what a name stands for.

    Raises:
        UserError: If the name is not of the form, no network has that depth, or alpha widens nothing; lists all.

    Example:
        >>> parse_pyramidnet("pyramidnet-164-270-bottleneck")
        PyramidNetOptions(depth=164, alpha=270.0, bottleneck=True, multiplicative=False)
    """
    match = re.fullmatch(r"pyramidnet-(\d+)-(\d+(?:\.\d+)?)((?:-[a-z]+)*)", name)
    endings = match[3].split("-")[1:] if match else []
    if (
        not match
        or len(set(endings)) < len(endings)
        or not {"bottleneck", "multiplicative"}.issuperset(endings)
    ):
        raise UserError(f"model.name must be {FORM}, such as pyramidnet-110-48: got '{name}'")
    depth, alpha = int(match[1]), float(match[2])
    options = PyramidNetOptions(depth, alpha, "bottleneck" in endings, "multiplicative" in endings)
    faults = []
    layers = _layers(options.bottleneck)
    blocks = max(1, round((depth - 2) / layers))
    if depth != layers * blocks + 2:
        kind = "bottleneck" if options.bottleneck else "basic"
        faults.append(
            f"the depth of a pyramidnet of {kind} blocks must be {layers} n + 2: got {depth} in '{name}', "
            f"the nearest is {layers * blocks + 2}"
        )
    least = 1.0 if options.multiplicative else 0.0
    if alpha <= least:
        faults.append(f"the alpha of a pyramidnet must exceed {least:g}: got {alpha:g} in '{name}'")
    if faults:
        raise UserError(faults)
    return options


def _layers(bottleneck: bool) -> int:
    """Return how many layers with weights a block of each of the groups has together."""
    return NUM_GROUPS * (3 if bottleneck else 2)


class PyramidBlock(nn.Module):
    """Norm, convolution, norm, ReLU, convolution, norm, and the input padded with zero channels.

    No ReLU at the beginning, a norm at the end: section 3.4 and figure 6 d. A bottleneck has a convolution of 1 x 1
    before and after.

    Args:
        inputs: Channels of the map that it takes.
        channels: Channels inside it.
        stride: 1, or 2 to halve the map.
        bottleneck: Whether it has three convolutions; then it returns four times as many channels.
    """

    def __init__(self, inputs: int, channels: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        self.stride = stride
        if bottleneck:
            plan = [
                (inputs, channels, 1, 1),
                (channels, channels, 3, stride),
                (channels, WIDENING * channels, 1, 1),
            ]
        else:
            plan = [(inputs, channels, 3, stride), (channels, channels, 3, 1)]
        layers: list[nn.Module] = [nn.BatchNorm2d(inputs)]
        for number, (before, after, window, step) in enumerate(plan):
            if number:
                layers.append(nn.ReLU())
            layers.append(nn.Conv2d(before, after, window, step, padding=window // 2, bias=False))
            layers.append(nn.BatchNorm2d(after))
        self.body = nn.Sequential(*layers)
        self.channels = plan[-1][1]

    def forward(self, level_BCHW: Tensor) -> Tensor:
        """Return a map of `channels` channels, ``ceil(H / stride)`` rows and ``ceil(W / stride)`` columns."""
        shortcut = level_BCHW
        if self.stride > 1:
            shortcut = functional.avg_pool2d(shortcut, self.stride, ceil_mode=True)
        more = self.channels - level_BCHW.shape[1]
        result: Tensor = self.body(level_BCHW) + functional.pad(shortcut, (0, 0, 0, 0, 0, more))
        return result


class PyramidNet(nn.Module):
    """The network for small images (CIFAR): three groups of blocks, of which the second and the third halve the map.

    The last map is averaged, so that images of any size can be classified; large ones cost as their pixels.

    Args:
        options: Which network of the family.
        num_classes: Classes.
        bands: Of the images.
    """

    def __init__(self, options: PyramidNetOptions, num_classes: int, bands: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(bands, FIRST_CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(FIRST_CHANNELS)
        )
        inputs = FIRST_CHANNELS
        blocks = []
        for number, channels in enumerate(options.channels()):
            stride = 2 if number and number % options.blocks_per_group == 0 else 1
            blocks.append(PyramidBlock(inputs, channels, stride, options.bottleneck))
            inputs = blocks[-1].channels
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(inputs)
        self.predictor = nn.Linear(inputs, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return the logits of each class, shape ``(B, num_classes)``."""
        last_BCHW = functional.relu(self.norm(self.blocks(self.stem(images_BCHW))))
        logits: Tensor = self.predictor(last_BCHW.mean(dim=(2, 3)))
        return logits
