"""Small states of training, for tests of checkpoints."""

import torch
from torch import nn

from ziggurat.config import CheckpointConfig, TrainConfig
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.runs.checkpoint import Checkpoints, Progress
from ziggurat.runs.checkpoint.tensors import read_tensors, stored_tensors
from ziggurat.strategies.layout import Chunk
from ziggurat.strategies.state import TrainState
from ziggurat.training.optimization import make_optimizer


def make_state(name="sgd", steps=0, decay=0.9):
    """Return the state of a model in channels-last after some steps."""
    torch.manual_seed(steps)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    state = TrainState.start(net, make_optimizer(net, TrainConfig(optimizer=name)), decay)
    for _ in range(steps):
        net(torch.randn(2, 3, 5, 5)).square().sum().backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.update_average()
        state.complete()
    return state


def chunks_of(state):
    """Return what one worker alone writes of a state."""
    return {name: Chunk.whole(tensor) for name, tensor in state.tensors().items()}


def checkpoints_of(folder, workers=None, run="run", **config):
    return Checkpoints(folder, workers or Workers(), CheckpointConfig(**config), run)


def saved(folder, *steps, config=None, metrics=None):
    """Write checkpoints of some steps, each of another state, and return what wrote them."""
    checkpoints = checkpoints_of(folder, **(config or {"keep": 9}))
    for step in steps:
        metric = (metrics or {}).get(step)
        checkpoints.save(Progress(step, metric), chunks_of(make_state(steps=1 + step % 5)))
    checkpoints.wait()
    return checkpoints


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def checkpoint_tensors(folder):
    """Return the tensors of one checkpoint by name."""
    tensors = {
        name: torch.empty(facts.shape, dtype=facts.dtype) for name, facts in stored_tensors(folder).items()
    }
    read_tensors(folder, tensors)
    return tensors
