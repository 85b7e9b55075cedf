"""A trace that fails leaves nothing behind, although whoever reports it keeps the error: no walk through all objects is needed to find what it made."""

import gc

import pytest
import torch
from torch import nn

from ziggurat.parallel.graph.cannot_cut import CannotCut
from ziggurat.parallel.graph.trace import Tracer, spec_of

IMAGES = torch.zeros(1, 3, 8, 8)


class AsksForValues(nn.Module):
    def forward(self, x):
        y = (x * 2).relu()
        return y if float(y.sum()) > 0 else x


class ChangesAView(nn.Module):
    """What is raised in the middle of PyTorch's own function, where a trace looks at its arguments."""

    def forward(self, x):
        y = x.sigmoid() * x.requires_grad_()
        y[:, :, 1:] *= 0.5
        for part in y.unbind(1)[:2]:
            part.detach().mul_(2)
        return y


class Within(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.first, self.layer = nn.Conv2d(3, 3, 1), layer

    def forward(self, x):
        return [self.layer(one) for one in (self.first(x), x)]


class FailsTheSecondTime(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        y = x.relu()
        return y.view(3, 3) if self.calls > 1 else y


NETWORKS = {
    "asks for values": AsksForValues,
    "changes a view": ChangesAView,
    "fails the second time": FailsTheSecondTime,
    "fails the second time in a layer": lambda: Within(FailsTheSecondTime()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_is_looked_for(name, monkeypatch):
    def walk(*objects):
        raise AssertionError(f"all objects are walked through for those that hold {len(objects)}")

    monkeypatch.setattr(gc, "get_referrers", walk)
    with pytest.raises(CannotCut):
        Tracer(NETWORKS[name]()).trace(spec_of(IMAGES))
