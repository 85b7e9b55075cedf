"""A detector: backbone, neck and head in a row, and the facts that its task needs."""

from __future__ import annotations

from typing import Literal, Protocol, cast

from torch import Tensor, nn
from torch.nn import functional

from ziggurat.models.levels import Level
from ziggurat.models.vision import VisionModel


class Pyramid(Protocol):
    """Returns maps by level."""

    @property
    def levels(self) -> dict[str, Level]:
        """The levels, from the finest to the coarsest."""
        ...


class Head(Protocol):
    """Predicts on every level of a pyramid."""

    kind: Literal["fcos", "retinanet", "atss"]
    num_anchors: int


class Detector(VisionModel):
    """A pyramid detector.

    Args:
        backbone: Returns maps by level.
        neck: Makes the pyramid of them; None where the backbone's maps are the pyramid.
        head: Predicts on every level of the pyramid.
        num_classes: Classes, without a background.
        statistics: Mean and deviation of each channel, in [0, 1], that images are normalized by.

    Attributes:
        levels: The pyramid's levels, from the finest to the coarsest.
        head_kind: ``fcos``, ``retinanet`` or ``atss``.
        num_anchors: Predictions at each position.
    """

    task = "detect"
    class_layers = ("head.classes",)

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | None,
        head: nn.Module,
        num_classes: int,
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        pyramid, facts = cast(Pyramid, neck or backbone), cast(Head, head)
        self.levels = pyramid.levels
        self.mean, self.std = statistics
        self.head_kind = facts.kind
        self.num_classes = num_classes
        self.num_anchors = facts.num_anchors
        # 32 at least, as torchvision pads, so that the levels lie on the same positions
        strides = [level.stride for level in cast(Pyramid, backbone).levels.values()]
        self.size_multiple = max(32, getattr(backbone, "size_multiple", 32), *strides)

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
        maps = self.backbone(images_BCHW)
        terms: dict[str, dict[str, Tensor]] = self.head(maps if self.neck is None else self.neck(maps))
        return terms
