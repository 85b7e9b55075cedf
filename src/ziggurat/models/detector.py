"""A detector: backbone, neck and head in a row, and the facts that its task needs."""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ziggurat.models.backbone import Backbone
from ziggurat.models.fcos import FcosHead
from ziggurat.models.fpn import FeaturePyramid
from ziggurat.models.retinanet import RetinaNetHead

Model = TypeVar("Model", bound=nn.Module)


def place_model(model: Model, device: torch.device, channels_last: bool) -> Model:
    """Move a model's weights to a device and lay them out in a memory format; return the model itself."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    # PyTorch's stubs know no call with both; at run time it is one pass over the weights
    return model.to(device=device, memory_format=memory_format)  # type: ignore[call-overload, no-any-return]


class Detector(nn.Module):
    """A pyramid detector.

    Args:
        backbone: Returns maps by level.
        neck: Makes the pyramid of them.
        head: Predicts on every level of the pyramid.
        num_classes: Classes, without a background.
        statistics: Mean and deviation of each channel, in [0, 1], that images are normalized by.

    Attributes:
        levels: The pyramid's levels, from the finest to the coarsest.
        mean: Mean of each channel, in [0, 1].
        std: Deviation of each channel, in [0, 1].
        head_kind: ``fcos`` or ``retinanet``.
        num_classes: Classes, without a background.
        num_anchors: Predictions at each position.
        size_multiple: Images are padded to multiples of this number.
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: FeaturePyramid,
        head: FcosHead | RetinaNetHead,
        num_classes: int,
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.levels = neck.levels
        self.mean, self.std = statistics
        self.head_kind: Literal["fcos", "retinanet"] = "fcos" if isinstance(head, FcosHead) else "retinanet"
        self.num_classes = num_classes
        self.num_anchors = head.num_anchors
        # 32 at least, as torchvision pads, so that the levels lie on the same positions
        self.size_multiple = max(32, *(level.stride for level in backbone.levels.values()))

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of an image after padding."""
        multiple = self.size_multiple
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    def level_sizes(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        """Return the rows and columns of each level's map for images of a size (padded, if need be)."""
        height, width = self.padded_size(height, width)
        return {n: (-(-height // v.stride), -(-width // v.stride)) for n, v in self.levels.items()}

    def forward(self, images_BCHW: Tensor) -> dict[str, dict[str, Tensor]]:
        """Return the head's terms of each level, as its `forward` says.

        Args:
            images_BCHW: Normalized images; padded with zeros below and to the right if their rows and columns
                are not multiples of `size_multiple`.
        """
        rows, columns = images_BCHW.shape[-2:]
        height, width = self.padded_size(rows, columns)
        if (height, width) != (rows, columns):
            images_BCHW = functional.pad(images_BCHW, (0, width - columns, 0, height - rows))
        terms: dict[str, dict[str, Tensor]] = self.head(self.neck(self.backbone(images_BCHW)))
        return terms
