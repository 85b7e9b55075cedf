"""A wide model, joined to the workers of a plan as a run does it."""

import dataclasses
from functools import partial

from torch import Tensor, nn

from support.small_runs import config_of
from ziggurat.models.vision import place_model
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.setting import run_setting
from ziggurat.strategies.state import TrainState
from ziggurat.training.feed import autocast
from ziggurat.training.optimization import make_optimizer


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
    """Join a model, its average and their optimizer as a run does; return the bytes of both models, and the state."""
    mesh = make_mesh(workers, config.plan)
    model = place_model(WideModel(), mesh.home, config.train.channels_last)
    state = TrainState.start(model, make_optimizer(model, config.train), config.train.ema)
    whole = 2 * sum(p.numel() * p.element_size() for p in model.parameters())
    setting = run_setting(config, mesh, partial(autocast, workers.device, config), state.decisions, folder)
    return whole, Parallel(state, mesh, setting)


def configured(plan):
    return dataclasses.replace(config_of("detect", **{"data.crop": 32, "train.ema": 0.9}), plan=plan)
