"""Training where every worker has all weights: what it says of gradients that are not finite."""

from contextlib import nullcontext

import torch
from torch import nn

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.data_training import DataTraining
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.training import PassWork, Whole


def test_the_first_bad_gradient_is_found_without_touching_the_sum():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    training = DataTraining(Whole(net, net, torch.optim.SGD(net.parameters())), make_mesh(Workers()))
    training.start(num_leaves=2)
    net[1].bias.grad = torch.ones(1)

    def bad(factors):
        work = PassWork(
            count=2,
            images=lambda index: torch.ones(1, 2),
            seed=lambda index: None,
            vector=lambda outputs, index: outputs * factors[index],
            announce=lambda name, index: None,
            compute=nullcontext,
        )
        return training.bad_gradients(work)

    assert bad([1.0, 1.0]) == {}
    assert bad([1.0, float("inf")]) == {1: "0.weight"}
    assert net[1].bias.grad.tolist() == [1]
    assert net[0].weight.grad is None
    training.close()
