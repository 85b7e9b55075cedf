"""Networks for the tests of verify, found as ``verify_networks:NAME``."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.parallel.spatial import SpatialTensor


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * 2


class Custom(nn.Module):
    """Its gradient comes from a function that knows of no bands."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return Doubled.apply(self.inner(x))


class Cheat(nn.Module):
    """Computes a little more where it is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        middle = self.first(x)
        return self.last(middle * 1.001 if isinstance(x, SpatialTensor) else middle)


def custom() -> nn.Module:
    return Custom()


def cheat() -> nn.Module:
    return Cheat()


class Flattener(nn.Module):
    """Leaves little of what differs between positions."""

    def forward(self, x: Tensor) -> Tensor:
        return 1000 + x * 1e-4


def amplifier() -> nn.Module:
    norm = nn.BatchNorm2d(4, eps=1e-30)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Flattener(), norm, nn.Conv2d(4, 2, 3), nn.Tanh())


def noisy() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Dropout2d(0.5),
        nn.Dropout(0.5),
        nn.Conv2d(8, 2, 1),
    )


def volumes() -> nn.Module:
    return nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.InstanceNorm3d(4, affine=True), nn.MaxPool3d(2))


def no_network() -> int:
    return 3


def broken() -> nn.Module:
    raise KeyError("weights")


def endless() -> nn.Module:
    while True:
        time.sleep(1)


class Forgetful(nn.Module):
    """Computes otherwise each time that the process builds one: what it counts outlives the network."""

    built = 0

    def __init__(self) -> None:
        super().__init__()
        Forgetful.built += 1
        self.number = Forgetful.built
        self.inner = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.number


def forgetful() -> nn.Module:
    return Forgetful()


class Stuck(nn.Module):
    """Never ends where it is cut, or where it is whole."""

    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.cut = cut
        self.inner = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        while isinstance(x, SpatialTensor) == self.cut:
            time.sleep(0.01)
        return self.inner(x)


def stuck_alone() -> nn.Module:
    return Stuck(cut=False)


def stuck_when_cut() -> nn.Module:
    return Stuck(cut=True)


class Unrepeatable(nn.Module):
    """Computes otherwise each time that it is called: what it counts outlives it, and its copies."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        Unrepeatable.calls += 1
        return self.inner(x) * Unrepeatable.calls


def unrepeatable() -> nn.Module:
    return Unrepeatable()
