"""Random draws behind, and between, layers that tp splits, in several orders of memory: those of one worker."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from support.ranks import run_ranks
from ziggurat.config import override
from ziggurat.config.records import RunConfig
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh
from ziggurat.verification.check import check_step
from ziggurat.verification.compare import BOUNDS
from ziggurat.verification.step import Trial, run_step

WIDTH = 4


def convolutions(conv: Any, *between: nn.Module) -> nn.Module:
    return nn.Sequential(conv(3, WIDTH, 3, padding=1), *between, conv(WIDTH, 3, 1))


class Tokens(nn.Module):
    """Computes with tokens of maps, in the memory of the maps."""

    def __init__(self, *between: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, WIDTH), *between, nn.Linear(WIDTH, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.movedim(1, -1)).movedim(-1, 1)


class OtherDims(nn.Module):
    """Computes with the maps as rows, or as volumes of one slice."""

    def __init__(self, layers: nn.Module, into: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]):
        super().__init__()
        self.layers, self.into, self.back = layers, into, back

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.layers(self.into(x)))


def flat(x: Tensor) -> Tensor:
    return x.flatten(2)


def square(x: Tensor) -> Tensor:
    return x.unflatten(2, (8, 6))


def deep(x: Tensor) -> Tensor:
    return x.unsqueeze(2)


def shallow(x: Tensor) -> Tensor:
    return x.squeeze(2)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": lambda: convolutions(nn.Conv2d),
    "activation": lambda: convolutions(nn.Conv2d, nn.GELU()),
    "batch norm": lambda: convolutions(nn.Conv2d, nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True)),
    "group norm": lambda: convolutions(nn.Conv2d, nn.GroupNorm(2, WIDTH), nn.SiLU()),
    "depthwise": lambda: convolutions(nn.Conv2d, nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)),
    "pooling": lambda: convolutions(nn.Conv2d, nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)),
    "dropout": lambda: convolutions(nn.Conv2d, nn.ReLU(), nn.Dropout(0.4)),
    "prelu": lambda: convolutions(nn.Conv2d, nn.PReLU(WIDTH)),
    "linear": lambda: Tokens(nn.GELU()),
    "linear and dropout": lambda: Tokens(nn.Dropout(0.4), nn.GELU()),
    "rows": lambda: OtherDims(convolutions(nn.Conv1d, nn.Dropout(0.4)), flat, square),
    "volumes": lambda: OtherDims(convolutions(nn.Conv3d, nn.Dropout(0.4)), deep, shallow),
}
ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "turned": lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
}


class Drawing(nn.Module):
    """Brings maps into an order of memory, and draws behind layers that can be split."""

    def __init__(self, layers: nn.Module, order: str) -> None:
        super().__init__()
        self.layers, self.order = layers, order

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(ORDERS[self.order](x))
        y = functional.dropout(y, 0.4) + torch.rand_like(y)
        return y * torch.empty_like(y).bernoulli_(0.6)


def network(name: str, order: str, weights: str) -> nn.Module:
    torch.manual_seed(0)
    model = Drawing(LAYERS[name](), order).double()
    return (
        model.to(memory_format=torch.channels_last)
        if weights == "channels last" and name != "volumes"
        else model
    )


CASES = [
    (name, order, weights)
    for name in LAYERS
    for order in ORDERS
    for weights in ("contiguous", "channels last")
]


def _trial(num_images: int) -> Trial:
    images = torch.randn(num_images, 3, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Trial(images, config=override(RunConfig(), {"tensor.min_width": WIDTH}))


def _errors(workers: Workers, plan: str, num_images: int, references: dict[Any, Any]) -> list[Any]:
    found = []
    for case, reference in references.items():
        check = check_step(workers, plan, network(*case), _trial(num_images), reference)
        found.append((case, check.errors.largest if check.errors else check.unsupported))
    return found


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("plan", "world", "num_images", "step"), [("tp=2", 2, 2, 1), ("tp=2", 2, 1, 5), ("sp=2,tp=2", 4, 2, 3)]
)
def test_draws_are_those_of_one_worker(plan: str, world: int, num_images: int, step: int) -> None:
    """Of one image, too: a dim of one row has any stride, and PyTorch's convolutions look at it."""
    references = {
        case: run_step(copy.deepcopy(network(*case)), _trial(num_images), make_mesh(Workers()))
        for case in CASES[::step]
    }
    for case, error in run_ranks(_errors, world, (plan, num_images, references))[0]:
        assert not isinstance(error, list), (case, error)
        assert error <= BOUNDS[torch.float64], (case, error)
