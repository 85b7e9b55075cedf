"""A run's state on its workers: what is said of gradients that are not finite."""

from contextlib import nullcontext

import torch
from torch import nn

from ziggurat.config import RunConfig
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.trace import spec_of
from ziggurat.strategies.base import Setting
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.running import Microbatches
from ziggurat.strategies.state import TrainState


def test_the_first_bad_gradient_is_found_without_touching_the_sum():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    state = TrainState.start(net, torch.optim.SGD(net.parameters()))
    setting = Setting(spec_of(torch.ones(1, 2)), RunConfig(), 2, nullcontext)
    parallel = Parallel(state, make_mesh(Workers()), setting)
    parallel.start(2)
    net[1].bias.grad = torch.ones(1)

    def bad(factors):
        work = Microbatches(
            2, lambda index: torch.ones(1, 2), lambda outputs, index: outputs * factors[index], nullcontext
        )
        return parallel.first_bad_of_each(work)

    assert bad([1.0, 1.0]) == {}
    assert bad([1.0, float("inf")]) == {1: "0.weight"}
    assert net[1].bias.grad.tolist() == [1]
    assert net[0].weight.grad is None
    parallel.close()
