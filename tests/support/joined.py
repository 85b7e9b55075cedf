"""A wide model, joined to the workers of a plan as a run does it."""

import dataclasses
from functools import partial

from torch import Tensor, nn
from ziggurat.strategies.joining import join_training
from ziggurat.strategies.training import Whole

from support.small_runs import config_of
from ziggurat.models.vision import place_model
from ziggurat.strategies.mesh import make_mesh
from ziggurat.training.optimization import WeightAverage, make_optimizer
from ziggurat.training.step import autocast


class WideModel(nn.Module):
    """Two equal halves of 47 MB."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [
            nn.Sequential(nn.Conv2d(256, 1280, 3, padding=1), nn.ReLU(), nn.Conv2d(1280, 256, 3))
            for _ in range(4)
        ]
        self.stem, self.blocks, self.head = nn.Conv2d(3, 256, 1), nn.Sequential(*blocks), nn.Conv2d(256, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def joined(workers, config, folder):
    """Join a model, its average and their optimizer as a run does; return the bytes of both models, and the training."""
    mesh = make_mesh(workers, config.plan)
    model = place_model(WideModel(), mesh.home, config.train.channels_last)
    average = WeightAverage(model, config.train.ema).model
    state = Whole(model, average, make_optimizer(model, config.train))
    whole = 2 * sum(p.numel() * p.element_size() for p in model.parameters())
    make, compute = partial(make_optimizer, config=config.train), partial(autocast, workers.device, config)
    return whole, join_training(state, mesh, config, make, compute, folder)


def configured(plan):
    return dataclasses.replace(config_of("detect", **{"data.crop": 32, "train.ema": 0.9}), plan=plan)
