"""What a task adds to its network where both become one graph, which is run by another program.

A graph has outputs of fixed extents: where a task finds any number of things it pads, and says how many there are.

Shapes: ``B`` images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

Dialect = Literal["torch", "onnx"]


class Difference(NamedTuple):
    """How far what a graph finds in an image is from what is found without it.

    Attributes:
        error: The largest difference of scores, or of logits.
        box_error: The largest difference of a box's side, in pixels; 0 where there are no boxes.
        same: Whether both find the same things.
        said: What one of them does not find; empty where they are the same.
    """

    error: float
    box_error: float = 0.0
    same: bool = True
    said: str = ""


@dataclass(frozen=True)
class GraphOutput:
    """An output of a graph.

    Attributes:
        name: Its name.
        dims: The name of each dim, or its size.
        meaning: What it holds.
    """

    name: str
    dims: tuple[str | int, ...]
    meaning: str


class GraphDecoder(nn.Module, ABC):
    """The end of a graph: from the outputs of a network to those of the graph.

    Attributes:
        outputs: What it returns, in order.
    """

    outputs: tuple[GraphOutput, ...]

    @abstractmethod
    def forward(self, outputs: Any, sizes_B2: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the graph by name.

        Args:
            outputs: The network's, of images whose rows and columns are multiples of its `size_multiple`.
            sizes_B2: Rows and columns of each image before padding, int64.
        """


class LogitsDecoder(GraphDecoder):
    """The network's logits as they are, which the task decodes as it decodes the network's own.

    Args:
        outputs: Says what they are.
    """

    def __init__(self, outputs: tuple[GraphOutput, ...]) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, outputs: dict[str, Tensor], sizes_B2: Tensor) -> dict[str, Tensor]:
        """Return ``logits`` alone, float32."""
        return {"logits": outputs["logits"].float()}


def compare_logits(ours_BK: Tensor, theirs_BK: Tensor, sizes: Sequence[tuple[int, ...]]) -> list[Difference]:
    """Return how far logits of images or of their pixels are apart, and whether the best class of each is the same.

    Where two classes of ours are closer than twice the difference of the logits, either may be the best.

    Args:
        ours_BK: Shape ``(B, K)`` or ``(B, K, H, W)``.
        theirs_BK: Of the same shape.
        sizes: Rows and columns of each image before padding.
    """
    differences = []
    for ours, theirs, (height, width) in zip(ours_BK.float(), theirs_BK.float(), sizes, strict=True):
        if ours.dim() > 1:
            ours, theirs = ours[..., :height, :width], theirs[..., :height, :width]
        error = float((ours - theirs).abs().max())
        other = ours.argmax(dim=0) != theirs.argmax(dim=0)
        if len(ours) > 1:
            best, second = ours.topk(2, dim=0).values
            other &= best - second > 2 * error
        wrong = int(other.sum())
        differences.append(
            Difference(error, same=not wrong, said=f"{wrong} of other classes" if wrong else "")
        )
    return differences
