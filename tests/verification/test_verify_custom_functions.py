"""Custom autograd functions and checkpoints of a network, under plans of every kind and in a loop of one's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import ziggurat
from support.ranks import run_ranks
from ziggurat.config import override
from ziggurat.config.records import RunConfig
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.cannot_cut import CannotCut
from ziggurat.parallel.spatial import declare
from ziggurat.strategies.mesh import make_mesh
from ziggurat.verification.check import check_step
from ziggurat.verification.compare import BOUNDS
from ziggurat.verification.step import Trial, run_step

TRIAL = Trial(torch.arange(648.0, dtype=torch.float64).sin().view(2, 3, 12, 9), config=override(RunConfig(), {"tensor.min_width": 4}))  # fmt: skip


class SwishOfStep(torch.autograd.Function):
    """Is declared."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradients[0] * (s * (1 + x * (1 - s)))


class Run(torch.autograd.Function):
    """Runs a layer, as reversible networks do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any) -> Tensor:
        return layer(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


class Checkpointing(nn.Module):
    """Calls a custom function by itself, and in checkpoints of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.wide, self.back = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = SwishOfStep.apply(self.back(self.wide(self.stem(x)).relu()))
        x = x + checkpoint(lambda y: SwishOfStep.apply(self.first(y)) * y, x, use_reentrant=True)
        return self.head(x + checkpoint(lambda y: SwishOfStep.apply(self.second(y)), x, use_reentrant=False))


class Reversible(nn.Module):
    """Gives a layer to a custom function."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(Run.apply(self.stem(x), self.inner))


@pytest.fixture(scope="module", autouse=True)
def declared() -> None:
    declare("SwishOfStep", "pointwise")


def network() -> nn.Module:
    torch.manual_seed(0)
    return Checkpointing().double()


def _check(workers: Workers, plan: str, reference: Any) -> Any:
    return check_step(workers, plan, network(), TRIAL, reference).errors


@pytest.mark.parametrize(
    ("plan", "world"), [("sp=2", 2), ("dp=2", 2), ("pp=2", 2), ("tp=2", 2), ("sp=2,pp=2", 4)]
)
def test_exact(plan: str, world: int) -> None:
    errors = run_ranks(_check, world, (plan, run_step(network(), TRIAL, make_mesh(Workers()))))[0]
    assert errors is not None
    assert errors.largest <= BOUNDS[torch.float64], errors


def _in_own_loop(workers: Workers) -> None:
    alone = network()
    model = ziggurat.spread(copy.deepcopy(alone), "sp=2", workers)
    for one in (alone, model):
        one(TRIAL.images).square().sum().backward()
    for mine, whole in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, whole.grad)


def test_in_a_loop_of_ones_own() -> None:
    run_ranks(_in_own_loop, 2)


def _refused(workers: Workers) -> None:
    with pytest.raises(CannotCut, match="given a function or a layer"):
        check_step(workers, "pp=2", Reversible().double(), TRIAL, None)  # type: ignore[arg-type]


def test_a_function_that_is_given_a_layer_cannot_be_traced() -> None:
    run_ranks(_refused, 2)
