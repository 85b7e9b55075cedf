"""What programs have in common: convolutions around a change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Change = Callable[[Tensor], Any]


class Between(nn.Module):
    """A convolution, a change, and a convolution that reads the neighbours of what the change returns.

    Args:
        change: Of a map of 8 channels: a function, or a module.
        channels: Of what it returns.
    """

    def __init__(self, change: Change, channels: int = 8) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(channels, 4, 3, padding=1)
        self.change = change

    def forward(self, images: Tensor) -> Any:
        return self.after(self.change(self.before(images)))


class Returned(nn.Module):
    """Two convolutions, and a change whose results are those of the network."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1))
        self.change = change

    def forward(self, images: Tensor) -> Any:
        return self.change(self.before(images))


class OnTokens(nn.Module):
    """A convolution, a change of its positions as a sequence ``(B, N, 8)``, and a linear layer."""

    def __init__(self, change: Change, width: int = 8) -> None:
        super().__init__()
        self.before, self.after, self.change = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(width, 4), change

    def forward(self, images: Tensor) -> Any:
        return self.after(self.change(tokens(self.before(images))))


def tokens(x: Tensor) -> Tensor:
    """Return the positions of a map as a sequence, shape ``(B, N, C)``: a view."""
    return x.flatten(2).transpose(1, 2)


def last(*values: Any) -> Any:
    """Return the last of values that were computed in order: ``last(x.mul_(2), x)``."""
    return values[-1]
