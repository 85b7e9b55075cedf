"""Networks that draw random numbers in evaluation (Monte Carlo dropout): the predictions of one worker, whatever the workers have drawn before."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own habit

from support.predictions import all_predictions
from support.ranks import run_ranks
from ziggurat.config import RunConfig, override
from ziggurat.data.dataset import ImageRecord
from ziggurat.models.build import build_model
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.generators import Generators
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.plan import parse_plan
from ziggurat.tasks.registry import make_task

SETTINGS = {"model.name": "timm:test_resnet", "data.crop": 64, "dtype": "fp32", "tensor.min_width": 4}
WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "a mask": lambda x: F.dropout(x, 0.5, training=True),
    "channels": lambda x: F.dropout2d(x, 0.5, training=True),
    "noise": lambda x: x + torch.randn_like(x),
    "a number of NumPy's": lambda x: x * float(np.random.uniform(0.2, 2)),
    "a number of Python's": lambda x: torch.roll(x, random.randint(0, 7), 2),
}


class Images:
    """Random pixels: of one size, so that batches have several."""

    def __len__(self) -> int:
        return 5

    def record(self, index: int) -> ImageRecord:
        return ImageRecord(f"{index}.png", index + 1, 64, 64)

    def image(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(index)
        return torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=generator)


class Draws(nn.Module):
    """A layer that draws whenever it is called."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return WAYS[self.way](x)


def probabilities(workers: Workers, plan: str, way: str) -> tuple[Tensor, list[str]]:
    """Return what is predicted, and the generators that are not as they were."""
    config = override(RunConfig(), SETTINGS)
    torch.manual_seed(3)
    model = build_model(config.model, num_classes=5)
    name = next(name for name, layer in model.named_modules() if isinstance(layer, nn.ReLU))
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, nn.Sequential(nn.ReLU(), Draws(way)))
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(100 + workers.rank)
    before = Generators.now()
    found = all_predictions(
        model, make_task(model, config), Images(), config, make_mesh(workers, plan), batch=2
    )
    return torch.stack(found), Generators.now().changed_since(before).names


@pytest.mark.sampled(2)
@pytest.mark.parametrize("way", WAYS)
def test_predictions_are_those_of_one_worker(way: str) -> None:
    ((alone, changed),) = run_ranks(probabilities, 1, ("", way))
    assert not changed
    assert float(alone.std(0).max()) > 0
    for plan in ("dp=2", "dp=3", "sp=2", "pp=2", "tp=2"):
        for found, changed in run_ranks(probabilities, parse_plan(plan).num_workers, (plan, way)):
            assert not changed, plan
            assert torch.allclose(found, alone, rtol=1e-4, atol=1e-6), plan
