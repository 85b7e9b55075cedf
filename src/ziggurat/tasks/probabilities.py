"""How probabilities of pixels are kept: a byte each, from 0 to `ONE`, which leaves 255 to pixels of which nothing is known."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ziggurat.data.extents import Region

ONE = 254  # the byte of the probability 1: a step is 0.4 percent
UNKNOWN = 255


class ProbabilitySink(Protocol):
    """What the probabilities of an image's pixels are given to."""

    def add(self, region: Region, probabilities_KHW: Tensor, /) -> None:
        """Take those of a region.

        Args:
            region: In pixels of the image; each pixel is in one of them.
            probabilities_KHW: Of each class, as `to_bytes` makes them, on the CPU, shape ``(K, *region.size)``.
        """
        ...


def to_bytes(probabilities: Tensor) -> Tensor:
    """Return probabilities as bytes, uint8.

    Example:
        >>> to_bytes(torch.tensor([0.0, 0.5, 1.0])).tolist()
        [0, 127, 254]
    """
    return (probabilities * ONE).round().to(torch.uint8)
